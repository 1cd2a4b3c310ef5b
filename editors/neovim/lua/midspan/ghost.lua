--- Ghost text of the plugin's own: asks the server, draws, and inserts what is accepted.
---
---     key → (debounce) → request, which cancels the one before → shown → accepted or typed on
---
--- Rule: one suggestion at a time, that of the current buffer. It is kept while the user types
--- what it says; an answer to a text or a place that is no longer so is dropped.
local client = require('midspan.client')
local compat = require('midspan.compat')
local config = require('midspan.config')
local draw = require('midspan.draw')
local policy = require('midspan.policy')
local text = require('midspan.text')

local api = vim.api
local M = {}

local INVOKED, AUTOMATIC = 1, 2

---@class midspan.Suggestion
---@field bufnr integer
---@field client_id integer
---@field items table[] as the server sent them
---@field index integer the one that is shown
---@field row integer where it begins: line, from 0
---@field column integer and byte
---@field replaced integer bytes behind the cursor that it replaces
---@field behind string the rest of the line behind those
---@field told integer|nil the item of which the server was told that it was shown
---@field all_asked boolean no more of them can be had
---@field hint string|nil

---@type midspan.Suggestion|nil
local suggestion
---@type {id: integer, client_id: integer}|nil
local pending
local timer ---@type uv.uv_timer_t|nil
local asked = 0 -- number of the latest request: answers to others are stale

---@return boolean
local function inserting()
  return api.nvim_get_mode().mode:sub(1, 1) == 'i'
end

---@param shown midspan.Suggestion
---@return string
local function whole(shown)
  return text.normalised(shown.items[shown.index].insertText)
end

--- What was typed or accepted of a suggestion, and what is left of it; nil if it no longer fits.
---@param shown midspan.Suggestion
---@return string|nil rest
---@return string|nil done
local function remaining(shown)
  if api.nvim_get_current_buf() ~= shown.bufnr then
    return nil
  end
  local cursor = api.nvim_win_get_cursor(0)
  local row, column = cursor[1] - 1, cursor[2]
  if row < shown.row or (row == shown.row and column < shown.column) then
    return nil
  end
  local line = api.nvim_get_current_line()
  if line:sub(column + shown.replaced + 1) ~= shown.behind then
    return nil
  end
  local lines = api.nvim_buf_get_text(shown.bufnr, shown.row, shown.column, row, column, {})
  local done = table.concat(lines, '\n')
  return text.rest(whole(shown), done), done
end

local function stop_timer()
  if timer then
    timer:stop()
    if not timer:is_closing() then
      timer:close()
    end
    timer = nil
  end
end

local function cancel()
  asked = asked + 1
  if pending then
    local asker = vim.lsp.get_client_by_id(pending.client_id)
    if asker then
      compat.cancel(asker, pending.id)
    end
    pending = nil
  end
end

local function forget()
  if suggestion then
    draw.clear(suggestion.bufnr)
    suggestion = nil
  end
end

--- Draw what is left of the suggestion; forget it if nothing is, or if it no longer fits.
---@return boolean
local function show()
  local rest = suggestion and remaining(suggestion)
  if not suggestion or not rest or rest == '' then
    forget()
    return false
  end
  if config.get().hide_with_menu and vim.fn.pumvisible() == 1 then
    draw.clear(suggestion.bufnr)
    return true
  end
  draw.show(suggestion.bufnr, rest, suggestion.replaced, suggestion.hint)
  if suggestion.told ~= suggestion.index then
    suggestion.told = suggestion.index
    local item = suggestion.items[suggestion.index]
    client.notify(suggestion.client_id, 'textDocument/didShowCompletion', { item = item })
    compat.user_event('MidspanShown', { bufnr = suggestion.bufnr, item = item })
  end
  return true
end

--- Items that insert plain text at the cursor, as suggestions.
---@param items table[]
---@param bufnr integer
---@param client_id integer
---@param encoding string
---@return midspan.Suggestion|nil
local function suggestion_of(items, bufnr, client_id, encoding)
  items = vim.tbl_filter(function(item)
    return type(item.insertText) == 'string' and item.insertText ~= ''
  end, items)
  if #items == 0 then
    return nil
  end
  local cursor = api.nvim_win_get_cursor(0)
  local row, column, replaced = cursor[1] - 1, cursor[2], 0
  local line = api.nvim_get_current_line()
  local range = items[1].range
  if type(range) == 'table' and range.start.line == row and range['end'].line == row then
    local start = compat.byte_index(line, range.start.character, encoding)
    local finish = compat.byte_index(line, range['end'].character, encoding)
    if start <= column and column <= finish then
      replaced = finish - column
      column = start
    end
  end
  return {
    bufnr = bufnr,
    client_id = client_id,
    items = items,
    index = 1,
    row = row,
    column = column,
    replaced = replaced,
    behind = line:sub(cursor[2] + replaced + 1),
    all_asked = false,
  }
end

--- Ask the server for suggestions at the cursor.
---@param kind integer
---@param done fun(found: midspan.Suggestion|nil)
local function request(kind, done)
  local bufnr = api.nvim_get_current_buf()
  local asker = client.of(bufnr)
  if not asker then
    return
  end
  cancel()
  local number = asked
  local tick, cursor = api.nvim_buf_get_changedtick(bufnr), api.nvim_win_get_cursor(0)
  local encoding = asker.offset_encoding
  local params = {
    textDocument = vim.lsp.util.make_text_document_params(bufnr),
    position = vim.lsp.util.make_position_params(0, encoding).position,
    context = { triggerKind = kind },
  }
  local sent, id = compat.request(asker, 'textDocument/inlineCompletion', params, function(err, result)
    if number ~= asked then
      return -- a later request was sent, or this one was cancelled
    end
    pending = nil
    local stale = api.nvim_get_current_buf() ~= bufnr
      or api.nvim_buf_get_changedtick(bufnr) ~= tick
      or not vim.deep_equal(api.nvim_win_get_cursor(0), cursor)
      or not inserting()
    if err or stale or type(result) ~= 'table' then
      return -- why there is nothing is in the status
    end
    done(suggestion_of(result.items or result, bufnr, asker.id, encoding))
  end, bufnr)
  if sent and id then
    pending = { id = id, client_id = asker.id }
  end
end

--- Show what the server has for the cursor's place.
---@param kind integer
local function ask(kind)
  request(kind, function(found)
    if require('midspan.native').visible() then
      return -- Neovim draws one already
    end
    forget()
    suggestion = found
    show()
  end)
end

--- Something was typed or the cursor moved: keep the suggestion, or look for another.
function M.changed()
  stop_timer()
  if not inserting() then
    return
  end
  if suggestion and show() then
    return
  end
  cancel()
  local bufnr = api.nvim_get_current_buf()
  if policy.native() or not policy.wanted(bufnr) or not client.of(bufnr) then
    return
  end
  if config.get().hide_with_menu and vim.fn.pumvisible() == 1 then
    return
  end
  timer = vim.defer_fn(function()
    timer = nil
    if inserting() and api.nvim_get_current_buf() == bufnr then
      ask(AUTOMATIC)
    end
  end, config.get().debounce_ms)
end

--- Forget the suggestion and what was asked for; returns whether there was one.
---@return boolean
function M.dismiss()
  local was_shown = suggestion
  stop_timer()
  cancel()
  forget()
  if was_shown then
    compat.user_event('MidspanDismissed', { bufnr = was_shown.bufnr })
  end
  return was_shown ~= nil
end

--- The model can answer now: what was typed while it was loading is asked for again.
function M.ready()
  local bufnr = api.nvim_get_current_buf()
  if inserting() and not suggestion and not pending and policy.wanted(bufnr) then
    ask(AUTOMATIC)
  end
end

---@return boolean
function M.visible()
  return suggestion ~= nil and (remaining(suggestion) or '') ~= ''
end

--- Ask for a suggestion now, by hand.
---@return boolean asked
function M.suggest()
  if not inserting() or not client.of(api.nvim_get_current_buf()) then
    return false
  end
  stop_timer()
  ask(INVOKED)
  return true
end

--- Show another of the suggestions; where there is one, ask for more first.
---@param step integer
---@return boolean
function M.cycle(step)
  if not M.visible() then
    return false
  end
  local shown = suggestion --[[@as midspan.Suggestion]]
  local function turn()
    shown.index = (shown.index - 1 + step) % #shown.items + 1
    shown.hint = #shown.items > 1 and (' (%d/%d)'):format(shown.index, #shown.items) or nil
    show()
  end
  local _, done = remaining(shown)
  if #shown.items > 1 or shown.all_asked or done ~= '' then
    turn()
    return true
  end
  shown.all_asked = true
  request(INVOKED, function(found)
    if suggestion ~= shown then
      return
    end
    for _, item in ipairs(found and found.items or {}) do
      if text.normalised(item.insertText) ~= whole(shown) then
        shown.items[#shown.items + 1] = item
      end
    end
    turn()
  end)
  return true
end

--- Run the command that a suggestion carries, which tells the server that it was accepted.
---@param shown midspan.Suggestion
local function tell_accepted(shown)
  local command = shown.items[shown.index].command
  if type(command) == 'table' then
    client.execute(shown.client_id, command.command, command.arguments)
  end
end

--- Insert the next part of the suggestion at the cursor.
---@param shown midspan.Suggestion
---@param part midspan.Part
local function insert(shown, part)
  local rest, done = remaining(shown)
  if not rest then
    return forget()
  end
  local piece = text.part[part](rest)
  local is_last = #piece == #rest
  local row, column = unpack(api.nvim_win_get_cursor(0))
  local lines = text.lines(piece)
  vim.bo.undolevels = vim.bo.undolevels -- so that `u` takes back this, and not what was typed
  local finish = column + (is_last and shown.replaced or 0)
  api.nvim_buf_set_text(shown.bufnr, row - 1, column, row - 1, finish, lines)
  local end_column = #lines[#lines] + (#lines == 1 and column or 0)
  api.nvim_win_set_cursor(0, { row + #lines - 1, end_column })
  local item = shown.items[shown.index]
  if is_last then
    tell_accepted(shown)
    forget()
  else
    client.notify(shown.client_id, 'textDocument/didPartiallyAcceptCompletion', {
      item = item,
      acceptedLength = text.utf16_length(done .. piece),
    })
  end
  compat.user_event('MidspanAccepted', { bufnr = shown.bufnr, item = item, part = part, text = piece })
  M.changed()
end

--- Accept the suggestion, or its next word or line. Returns false where there is none.
---@param part midspan.Part
---@return boolean
function M.accept(part)
  if not M.visible() then
    return false
  end
  local shown = suggestion --[[@as midspan.Suggestion]]
  local ok, err = pcall(insert, shown, part)
  if not ok then
    if not tostring(err):find('E565') then
      error(err)
    end
    -- Text may not be changed in an expression mapping: right after it.
    vim.schedule(function()
      if suggestion == shown then
        insert(shown, part)
      end
    end)
  end
  return true
end

--- Take over a suggestion that Neovim drew, and accept a part of it; the rest stays on the screen.
---@param shown midspan.Suggestion
---@param part midspan.Part
function M.adopt(shown, part)
  forget()
  shown.told = 1 -- it was on the screen already
  suggestion = shown
  insert(shown, part)
end

return M
