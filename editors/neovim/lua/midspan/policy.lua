--- Where suggestions are wanted. Rule: reads options and variables; decides, does nothing.
local config = require('midspan.config')

local M = {}

--- A switch variable: unset, on or off (0 and v:false).
---@param value any
---@return boolean|nil
local function switch(value)
  if value == nil or value == vim.NIL then
    return nil
  end
  return value ~= false and value ~= 0
end

--- Whether a buffer is a file that the server should know.
---@param bufnr integer
---@return boolean
function M.attachable(bufnr)
  if not vim.api.nvim_buf_is_loaded(bufnr) or vim.bo[bufnr].buftype ~= '' then
    return false -- prompts of Telescope and others, terminals, the quickfix list, help
  end
  local here = switch(vim.b[bufnr].midspan_enabled)
  if here ~= nil then
    return here
  end
  return config.filetype_wanted(vim.bo[bufnr].filetype)
end

--- Whether anything is suggested at all; `:Midspan toggle` changes it.
---@return boolean
function M.enabled()
  return switch(vim.g.midspan_enabled) ~= false
end

--- Whether something may be suggested in a buffer now.
---@param bufnr integer
---@return boolean
function M.wanted(bufnr)
  return M.enabled()
    and config.get().ghost_text ~= 'off'
    and M.attachable(bufnr)
    and vim.bo[bufnr].modifiable
end

--- Whether Neovim itself draws the ghost text.
---@return boolean
function M.native()
  local ghost_text = config.get().ghost_text
  return vim.lsp.inline_completion ~= nil and (ghost_text == 'auto' or ghost_text == 'native')
end

return M
