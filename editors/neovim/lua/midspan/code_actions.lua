--- A code action of the server at the cursor, without a menu. Rule: asks, picks by title, applies.
local client = require('midspan.client')
local compat = require('midspan.compat')
local fail = require('midspan.say').error

local api = vim.api
local M = {}

--- Where a code action is asked for: at the cursor; in normal mode behind the character under it,
--- as `a` would append.
---@param encoding string
---@return table
local function action_position(encoding)
  local position = vim.lsp.util.make_position_params(0, encoding).position
  if api.nvim_get_mode().mode:sub(1, 1) == 'n' then
    local column = api.nvim_win_get_cursor(0)[2]
    local line = api.nvim_get_current_line()
    local after = vim.fn.matchstr(line:sub(column + 1), '.')
    local units = {
      ['utf-8'] = #after,
      ['utf-16'] = require('midspan.text').utf16_length(after),
      ['utf-32'] = vim.fn.strchars(after),
    }
    position.character = position.character + units[encoding]
  end
  return position
end

---@param found table the client
---@param action table a code action or a command
---@param bufnr integer
local function apply(found, action, bufnr)
  local function finish(ready)
    if ready.edit then
      vim.lsp.util.apply_workspace_edit(ready.edit, found.offset_encoding)
    end
    local command = type(ready.command) == 'table' and ready.command
      or (type(ready.command) == 'string' and ready)
    if command then
      client.execute(found.id, command.command, command.arguments, function(err)
        if err then
          fail(err.message)
        end
      end)
    end
  end
  if action.edit or type(action.command) == 'string' or not action.data then
    return finish(action)
  end
  compat.request(found, 'codeAction/resolve', action, function(err, resolved)
    if err then
      return fail(err.message)
    end
    finish(resolved)
  end, bufnr)
end

--- Ask for the code actions at the cursor, and apply the one whose title matches.
---@param found table the client that serves the buffer
---@param bufnr integer the current buffer
---@param pattern string
---@param none string what to say where there is no such action
function M.run(found, bufnr, pattern, none)
  local position = action_position(found.offset_encoding)
  local params = {
    textDocument = vim.lsp.util.make_text_document_params(bufnr),
    range = { start = position, ['end'] = position },
    context = { diagnostics = {}, only = { 'refactor.rewrite' }, triggerKind = 1 },
  }
  compat.request(found, 'textDocument/codeAction', params, function(err, actions)
    if err then
      return fail(err.message)
    end
    for _, action in ipairs(type(actions) == 'table' and actions or {}) do
      if action.title:lower():find(pattern) then
        return apply(found, action, bufnr)
      end
    end
    fail(none)
  end, bufnr)
end

return M
