--- Neovim 0.12 draws; this stands between it and the server.
---
--- Rule: Neovim's own state is only touched through `vim.lsp.inline_completion`. What it leaves
--- out is added on the way: earlier requests are cancelled, stale answers dropped, the server is
--- told what was shown, buffers and filetypes can be excluded, CRLF becomes a line break.
local client = require('midspan.client')
local compat = require('midspan.compat')
local ghost = require('midspan.ghost')
local policy = require('midspan.policy')
local text = require('midspan.text')

local api = vim.api
local M = {}

local METHOD = 'textDocument/inlineCompletion'

-- What the server sent last, and for which text and place.
---@type {bufnr: integer, client_id: integer, items: table[], told: table<string, boolean>}|nil
local latest

-- Where the user wanted none: it stays away until something is typed, also what was asked for.
---@type table|nil
local dismissed

---@param bufnr integer
---@return table
local function place(bufnr)
  return { bufnr, api.nvim_buf_get_changedtick(bufnr), api.nvim_win_get_cursor(0) }
end

---@param bufnr integer
---@return boolean
local function is_dismissed(bufnr)
  return dismissed ~= nil and vim.deep_equal(dismissed, place(bufnr))
end

---@param bufnr integer
---@return boolean
local function drawn(bufnr)
  local namespace = api.nvim_get_namespaces()['nvim.lsp.inline_completion']
  return namespace ~= nil and #api.nvim_buf_get_extmarks(bufnr, namespace, 0, -1, { limit = 1 }) > 0
end

---@param insert_text string
---@return table|nil
local function item_of(insert_text)
  for _, item in ipairs(latest and latest.items or {}) do
    if item.insertText == insert_text then
      return item
    end
  end
end

---@param result any
---@return {items: table[]}
local function plain(result)
  local items = type(result) == 'table' and (result.items or result) or {}
  for _, item in ipairs(items) do
    if type(item.insertText) == 'string' then
      item.insertText = text.normalised(item.insertText)
    end
  end
  return { items = items } -- never null: Neovim would keep showing what no longer fits
end

--- Tell the server what has come to the screen.
---@param found table the answer's items and where they belong
local function tell_shown(found)
  local first = found.items[1]
  if not first or not drawn(found.bufnr) or found.told then
    return
  end
  found.told = true
  client.notify(found.client_id, 'textDocument/didShowCompletion', { item = first })
  compat.user_event('MidspanShown', { bufnr = found.bufnr, item = first })
end

--- Stand between Neovim and a client of ours: its `request` of inline completions goes through us.
---@param lsp_client vim.lsp.Client
local function interpose(lsp_client)
  local request = lsp_client.request
  local asked, pending = 0, nil
  ---@diagnostic disable-next-line: duplicate-set-field
  lsp_client.request = function(self, method, params, handler, bufnr)
    if method ~= METHOD or not policy.native() then
      return request(self, method, params, handler, bufnr)
    end
    bufnr = (bufnr == nil or bufnr == 0) and api.nvim_get_current_buf() or bufnr
    asked = asked + 1
    if pending then
      self:cancel_request(pending)
      pending = nil
    end
    if not policy.wanted(bufnr) or ghost.visible() or is_dismissed(bufnr) then
      local nothing = { method = method, client_id = self.id, bufnr = bufnr, params = params }
      handler(nil, { items = {} }, nothing)
      return true, nil
    end
    local number, tick = asked, api.nvim_buf_get_changedtick(bufnr)
    local sent, id = request(self, method, params, function(err, result, ctx)
      if number ~= asked then
        return
      end
      pending = nil
      if err or tick ~= api.nvim_buf_get_changedtick(bufnr) then
        return
      end
      if ghost.visible() or is_dismissed(bufnr) then
        -- The plugin was asked meanwhile and draws, or nothing is wanted here.
        return handler(nil, { items = {} }, ctx)
      end
      latest = { bufnr = bufnr, client_id = self.id, items = plain(result).items }
      handler(nil, { items = latest.items }, ctx)
      tell_shown(latest)
    end, bufnr)
    pending = id
    return sent, id
  end
end

--- Have Neovim draw a client's suggestions in a buffer.
---@param lsp_client vim.lsp.Client
---@param bufnr integer
function M.attach(lsp_client, bufnr)
  if not lsp_client._midspan_interposed then
    lsp_client._midspan_interposed = true
    interpose(lsp_client)
  end
  -- Neovim notes the buffer as attached only after the autocommands.
  vim.schedule(function()
    if api.nvim_buf_is_loaded(bufnr) and compat.clients('midspan', bufnr)[1] then
      if policy.native() then
        -- For the whole buffer: Neovim forgets a client that ended only where that is so.
        vim.lsp.inline_completion.enable(true, { bufnr = bufnr })
      else
        vim.lsp.inline_completion.enable(false, { client_id = lsp_client.id })
      end
    end
  end)
end

---@return boolean
function M.visible()
  return policy.native() and latest ~= nil and drawn(api.nvim_get_current_buf())
end

--- What Neovim shows, as a suggestion of ours; nil if the text moved away from it.
---@param native vim.lsp.inline_completion.Item
---@param bufnr integer
---@return midspan.Suggestion|nil
local function suggestion_of(native, bufnr)
  local item = type(native.insert_text) == 'string' and item_of(native.insert_text)
  if not item or native.client_id ~= latest.client_id then
    return nil
  end
  local cursor = api.nvim_win_get_cursor(0)
  local row, column, finish = cursor[1] - 1, cursor[2], cursor[2]
  if native.range then
    row, column, finish = native.range.start_row, native.range.start_col, native.range.end_col
  end
  local replaced = math.max(0, finish - cursor[2])
  return {
    bufnr = bufnr,
    client_id = native.client_id,
    items = { item },
    index = 1,
    row = row,
    column = column,
    replaced = replaced,
    behind = api.nvim_get_current_line():sub(cursor[2] + replaced + 1),
    all_asked = true,
  }
end

--- Accept what Neovim shows, or a part of it. Returns false where it shows nothing.
---@param part midspan.Part
---@return boolean
function M.accept(part)
  if not M.visible() then
    return false
  end
  local bufnr = api.nvim_get_current_buf()
  return vim.lsp.inline_completion.get({
    on_accept = function(native)
      local shown = suggestion_of(native, bufnr)
      if not shown then
        return native -- another server's: Neovim inserts it
      end
      ghost.adopt(shown, part)
    end,
  })
end

---@param step integer
---@return boolean
function M.cycle(step)
  if not M.visible() then
    return false
  end
  vim.lsp.inline_completion.select({ count = step })
  return true
end

---@return boolean
function M.dismiss()
  if policy.native() and api.nvim_get_mode().mode:sub(1, 1) == 'i' then
    if not dismissed then
      api.nvim_create_autocmd('InsertLeave', {
        once = true,
        callback = function()
          dismissed = nil
        end,
      })
    end
    dismissed = place(api.nvim_get_current_buf())
  end
  if not M.visible() then
    return false
  end
  return vim.lsp.inline_completion.get({
    on_accept = function()
      compat.user_event('MidspanDismissed', { bufnr = api.nvim_get_current_buf() })
    end,
  })
end

return M
