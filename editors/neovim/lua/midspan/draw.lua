--- Ghost text on the screen. Rule: extmarks only; must not know where the text comes from.
---
--- From Neovim 0.10 the rest of the line moves aside. Before, virtual text can only lie over it:
--- the rest of the line is drawn again behind the ghost text.
local compat = require('midspan.compat')
local text = require('midspan.text')

local M = {}

local namespace = vim.api.nvim_create_namespace('midspan')
local GHOST = 'MidspanGhost'

---@param bufnr integer
function M.clear(bufnr)
  if vim.api.nvim_buf_is_valid(bufnr) then
    vim.api.nvim_buf_clear_namespace(bufnr, namespace, 0, -1)
  end
end

--- Draw text at the cursor of the current window, in place of what was drawn before.
---@param bufnr integer the current buffer
---@param ghost string
---@param replaced integer bytes behind the cursor that the text will replace
---@param hint string|nil stands behind the text
function M.show(bufnr, ghost, replaced, hint)
  M.clear(bufnr)
  local cursor = vim.api.nvim_win_get_cursor(0)
  local row, column = cursor[1] - 1, cursor[2]
  local line = vim.api.nvim_buf_get_lines(bufnr, row, row + 1, false)[1] or ''
  local lines = text.lines(ghost)
  local screen_column = vim.fn.strdisplaywidth(line:sub(1, column))

  local first = { { text.expanded(lines[1], screen_column), GHOST } }
  local below = {}
  for index = 2, #lines do
    below[#below + 1] = { { text.expanded(lines[index], 0), GHOST } }
  end
  local last = below[#below] or first
  if hint then
    last[#last + 1] = { hint, GHOST }
  end
  local behind = line:sub(column + replaced + 1)
  local mark = { virt_lines = #below > 0 and below or nil, hl_mode = 'combine' }
  if compat.INLINE_VIRTUAL_TEXT and replaced == 0 then
    mark.virt_text_pos = 'inline'
  else
    mark.virt_text_pos = 'overlay'
    if behind ~= '' then
      local at = screen_column + vim.fn.strdisplaywidth(first[1][1], screen_column)
      first[#first + 1] = { text.expanded(behind, at), 'Normal' }
    end
  end
  mark.virt_text = first
  vim.api.nvim_buf_set_extmark(bufnr, namespace, row, column, mark)
end

return M
