--- midspan for Neovim 0.7.2 and later: the functions that users call. See |midspan|.
--- Rule: thin; each function works before `setup()` and in any buffer.
local M = {}

---@alias midspan.Scope 'all'|'buffer'|'filetype'

--- Set options; not needed for the defaults. Wrong options are told and left at their default.
---@param options midspan.Options|nil see |midspan-options|
function M.setup(options)
  local config = require('midspan.config')
  config.set(options)
  M._map_keys()
  if vim.g.loaded_midspan then
    require('midspan.client').push_settings()
  end
end

--- Whether a suggestion is on the screen.
---@return boolean
function M.visible()
  return require('midspan.ghost').visible() or require('midspan.native').visible()
end

--- Accept the suggestion, or its next word or line.
---@param part midspan.Part|nil
---@return boolean accepted false where there is no suggestion: do what the key does otherwise
function M.accept(part)
  part = part or 'all'
  return require('midspan.ghost').accept(part) or require('midspan.native').accept(part)
end

---@return boolean
function M.accept_word()
  return M.accept('word')
end

---@return boolean
function M.accept_line()
  return M.accept('line')
end

--- Show the next suggestion for the same place.
---@return boolean
function M.next()
  return require('midspan.ghost').cycle(1) or require('midspan.native').cycle(1)
end

--- Show the previous suggestion.
---@return boolean
function M.previous()
  return require('midspan.ghost').cycle(-1) or require('midspan.native').cycle(-1)
end

--- Take the suggestion off the screen.
---@return boolean
function M.dismiss()
  local own = require('midspan.ghost').dismiss()
  return require('midspan.native').dismiss() or own
end

--- Ask for a suggestion now.
---@return boolean
function M.suggest()
  return not M.visible() and require('midspan.ghost').suggest()
end

--- Switch suggestions on or off.
---@param scope midspan.Scope|nil
---@return boolean enabled
function M.toggle(scope)
  local bufnr = vim.api.nvim_get_current_buf()
  local policy = require('midspan.policy')
  local client = require('midspan.client')
  local enabled
  if scope == 'buffer' then
    enabled = not policy.attachable(bufnr)
    vim.b[bufnr].midspan_enabled = nil
    if policy.attachable(bufnr) ~= enabled then
      vim.b[bufnr].midspan_enabled = enabled
    end
  elseif scope == 'filetype' then
    local filetype = vim.bo[bufnr].filetype
    enabled = not require('midspan.config').filetype_wanted(filetype)
    require('midspan.config').get().filetypes[filetype] = enabled
  else
    enabled = not policy.enabled()
    vim.g.midspan_enabled = enabled
    client.push_settings()
  end
  if enabled then
    client.attach(bufnr)
  else
    M.dismiss()
  end
  vim.cmd('redrawstatus')
  return enabled
end

--- For a status line: the model, or what keeps it from suggesting.
---@return string
function M.statusline()
  local bufnr = vim.api.nvim_get_current_buf()
  local attached = require('midspan.client').of(bufnr) ~= nil
  return require('midspan.status').line(attached, require('midspan.policy').wanted(bufnr))
end

--- What the server said last about itself.
---@return midspan.Status
function M.status()
  return require('midspan.status').current
end

--- Map the keys of the option `keys`; without a suggestion each does what it did before.
function M._map_keys()
  local config = require('midspan.config')
  for action, key in pairs(config.get().keys) do
    local plug = config.KEYS[action]
    if action == 'suggest' then
      vim.keymap.set('i', key, plug, { remap = true, desc = 'midspan: suggest' })
    else
      vim.keymap.set('i', key, function()
        return M.visible() and plug or key
      end, { expr = true, remap = true, desc = 'midspan: ' .. action:gsub('_', ' ') })
    end
  end
end

return M
