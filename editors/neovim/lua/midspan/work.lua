--- Commands of the server that take a while: what they say meanwhile, and how they are cancelled.
--- Rule: knows tokens and percentages; must not know what is being done.
local compat = require('midspan.compat')
local status = require('midspan.status')

local M = {}

local ECHO_EVERY_MS = 250

---@class midspan.Work
---@field title string
---@field client_id integer
---@field request_id integer|nil
---@field message string
---@field percentage integer|nil
---@field done fun(err: string|nil, result: any)
---@field partial fun(value: any)|nil

local running = {} ---@type table<string, midspan.Work> by token
local count, echoed = 0, 0

---@param work midspan.Work
---@return string
local function described(work)
  local parts = { work.title }
  if (work.percentage or 0) > 0 then -- some have no other than the first, which is 0
    parts[#parts + 1] = ('%d %%'):format(work.percentage)
  end
  if work.message ~= '' then
    parts[#parts + 1] = work.message
  end
  return table.concat(parts, ' · ')
end

--- What is under way, oldest first.
---@return string[]
function M.lines()
  local tokens = vim.tbl_keys(running)
  table.sort(tokens)
  return vim.tbl_map(function(token)
    return described(running[token])
  end, tokens)
end

---@param token string
local function forget(token)
  running[token] = nil
  status.work = M.lines()
  vim.cmd('redrawstatus')
end

--- A server stops at either of the two: the progress's cancel is what its own clean-up hears.
---@param token string
local function cancel(token)
  local work = running[token]
  local found = work and vim.lsp.get_client_by_id(work.client_id)
  if found then
    compat.notify(found, 'window/workDoneProgress/cancel', { token = token })
    compat.cancel(found, work.request_id)
  end
  if work then
    forget(token)
  end
end

--- In the status line, and where nobody is typing below it, too.
---@param work midspan.Work
local function show(work)
  status.work = M.lines()
  vim.cmd('redrawstatus')
  local data = { title = work.title, percentage = work.percentage, message = work.message }
  compat.user_event('MidspanProgress', data)
  local now = compat.uv.now()
  if vim.api.nvim_get_mode().mode == 'n' and now - echoed >= ECHO_EVERY_MS then
    echoed = now
    local width = vim.o.columns - 20
    vim.api.nvim_echo({ { vim.fn.strcharpart('midspan: ' .. described(work), 0, width) } }, false, {})
  end
end

---@param token any
---@param value any
---@return boolean ours and no work-done progress: nobody else wants it
local function told(token, value)
  local owner = type(token) == 'string' and token:match('^(midspan%-%d+%-%d+)/partial$')
  if owner then
    if running[owner] then
      running[owner].partial(value)
    end
    return true
  end
  local work = running[token]
  if work and value.kind ~= 'end' then
    -- What it is at; the first message says only whose progress it is.
    work.message = value.kind == 'report' and value.message or work.message
    work.percentage = value.percentage or work.percentage
    show(work)
  end
  return false
end

--- The handler of `$/progress`: Neovim's own goes on working, for `LspProgress` and its plugins.
function M.on_progress(err, result, ctx, config)
  if not err and type(result) == 'table' and type(result.value) == 'table' then
    if told(result.token, result.value) then
      return
    end
  end
  return vim.lsp.handlers['$/progress'](err, result, ctx, config)
end

--- Run a command of the server that takes one object, with progress.
---@param found table the client
---@param title string
---@param command string
---@param argument table
---@param done fun(err: string|nil, result: any) not called where it was cancelled
---@param partial fun(value: any)|nil told what there is so far: `argument` gets its token
---@return fun() cancel
function M.run(found, title, command, argument, done, partial)
  count = count + 1
  local token = ('midspan-%d-%04d'):format(vim.fn.getpid(), count)
  local work = { title = title, client_id = found.id, message = '', done = done, partial = partial }
  if partial then
    argument.partialResultToken = token .. '/partial'
  end
  local params = { command = command, arguments = { argument }, workDoneToken = token }
  running[token] = work
  local sent, id = compat.request(found, 'workspace/executeCommand', params, function(err, result)
    if running[token] then
      forget(token)
      done(err and err.message, result)
    end
  end)
  if sent then
    work.request_id = id
    show(work)
  else
    forget(token)
    done('the language server cannot be reached; `:Midspan restart` starts it again')
  end
  return function()
    cancel(token)
  end
end

--- Cancel all that is under way.
---@return string[] what that was
function M.cancel()
  local titles = {}
  for token, work in pairs(running) do
    titles[#titles + 1] = work.title
    cancel(token)
  end
  table.sort(titles)
  return titles
end

--- The server ended, and with it what it was doing.
---@param client_id integer
function M.ended(client_id)
  for token, work in pairs(running) do
    if work.client_id == client_id then
      forget(token)
      work.done('the language server ended meanwhile')
    end
  end
end

return M
