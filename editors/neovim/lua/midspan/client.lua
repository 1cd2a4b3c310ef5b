--- The language server's process: its configuration, where it is attached, its end and return.
--- Rule: one server for all of Neovim; one that ends by itself is started again, but not for ever.
local compat = require('midspan.compat')
local config = require('midspan.config')
local policy = require('midspan.policy')
local status = require('midspan.status')

local api = vim.api
local M = {}

M.NAME = 'midspan'
local RETURN_MS = 500
local MAX_ENDS, WITHIN_S = 5, 180

local attached = {} ---@type table<integer, boolean> the buffers that it serves
local returned = {} ---@type table<integer, boolean> those that were attached anew
local ends = {} ---@type integer[] when it ended by itself
local stopping = {} ---@type table<integer, boolean> clients that were told to stop

local function capabilities()
  local made = vim.lsp.protocol.make_client_capabilities()
  made.textDocument.inlineCompletion = { dynamicRegistration = false }
  return made
end

--- Settings as the server gets them; `:Midspan toggle` switches `enabled`.
---@param server table
---@return table
local function settings(server)
  local all = vim.tbl_extend('force', vim.empty_dict(), server)
  if policy.enabled() then
    all.enabled = config.get().server.enabled
  else
    all.enabled = false
  end
  return { midspan = all }
end

--- Why the server cannot be started; nil if it can.
---@return string|nil
function M.obstacle()
  local command = config.get().cmd[1]
  if vim.fn.executable(command) == 0 then
    return ('the command `%s` was not found; install midspan or set `cmd` (:help midspan-install)'):format(
      command
    )
  end
end

---@param code integer
---@param signal integer
---@param client_id integer
local function ended(code, signal, client_id)
  status.forget()
  require('midspan.work').ended(client_id)
  local asked_for = stopping[client_id] or vim.v.exiting ~= vim.NIL
  stopping[client_id] = nil
  if asked_for or (code == 0 and signal == 0) then
    return
  end
  local now = os.time()
  ends = vim.tbl_filter(function(time)
    return now - time < WITHIN_S
  end, ends)
  ends[#ends + 1] = now
  if #ends > MAX_ENDS then
    vim.notify(
      'midspan: the language server keeps ending, so it was left off. '
        .. '`:Midspan log` says why, `:Midspan restart` starts it again.',
      vim.log.levels.ERROR
    )
    return
  end
  vim.defer_fn(M.attach_all, RETURN_MS)
end

--- The client's configuration, for `vim.lsp.config` and for what came before it.
---@return table
function M.config()
  local options = config.get()
  return {
    name = M.NAME,
    cmd = options.cmd,
    cmd_env = next(options.cmd_env) and options.cmd_env or nil,
    capabilities = capabilities(),
    init_options = next(options.server) and options.server or nil,
    settings = settings(options.server),
    handlers = {
      ['$/progress'] = function(...)
        return require('midspan.work').on_progress(...)
      end,
      ['midspan/status'] = function(_, result)
        local was_busy = status.current.busy
        status.set(result)
        if was_busy and not result.busy and result.kind == 'Normal' then
          require('midspan.ghost').ready()
        end
      end,
    },
    on_exit = function(code, signal, client_id)
      vim.schedule(function()
        ended(code, signal, client_id)
      end)
    end,
    -- One server for all folders: it finds each file's repository itself.
    reuse_client = function(client)
      return client.name == M.NAME
    end,
  }
end

--- The client that serves a buffer.
---@param bufnr integer
---@return table|nil
function M.of(bufnr)
  return compat.clients(M.NAME, bufnr)[1]
end

--- Any client that serves.
---@return table|nil
function M.any()
  return M.of(api.nvim_get_current_buf()) or compat.clients(M.NAME)[1]
end

--- A client was attached to a buffer.
---@param lsp_client table
---@param bufnr integer
function M.attached(lsp_client, bufnr)
  attached[bufnr] = true
  if vim.lsp.inline_completion then
    require('midspan.native').attach(lsp_client, bufnr)
  end
end

---@param bufnr integer
function M.detached(bufnr)
  attached[bufnr] = nil
  returned[bufnr] = nil
end

-- Before 0.8 there is no `vim.lsp.start`, which starts one client and finds it again.
local started ---@type integer|nil

---@param bufnr integer
local function start_on_07(bufnr)
  local client = started and vim.lsp.get_client_by_id(started)
  if not client or compat.is_stopped(client) then
    local made = M.config()
    made.on_attach = M.attached
    started = vim.lsp.start_client(made)
  end
  if started then
    vim.lsp.buf_attach_client(bufnr, started)
  end
end

--- Attach the server to a buffer where it is wanted there, starting it if need be.
---@param bufnr integer
function M.attach(bufnr)
  if not policy.attachable(bufnr) or M.of(bufnr) then
    return
  end
  local obstacle = M.obstacle()
  if obstacle then
    return vim.notify_once('midspan: ' .. obstacle, vim.log.levels.WARN)
  end
  if not vim.lsp.start then
    return start_on_07(bufnr)
  end
  local made = M.config()
  if vim.lsp.config then
    made = vim.tbl_extend('force', {}, vim.lsp.config[M.NAME] or made)
    made.root_dir = nil
  end
  -- vim.lsp.start attaches to the current buffer, in every version.
  api.nvim_buf_call(bufnr, function()
    vim.lsp.start(made, { reuse_client = made.reuse_client, bufnr = bufnr })
  end)
end

--- Attach the server again wherever it was, and to the current buffer.
function M.attach_all()
  attached[api.nvim_get_current_buf()] = true
  for bufnr in pairs(attached) do
    if api.nvim_buf_is_loaded(bufnr) then
      returned[bufnr] = true
      M.attach(bufnr)
    end
  end
end

local LINE_ENDS = { unix = '\n', dos = '\r\n', mac = '\r' }

--- Send a buffer's text where Neovim no longer does: it stops following a buffer that changes
--- while no server is there, and does not begin again when one returns (0.7 to 0.12).
---@param bufnr integer
function M.follow(bufnr)
  local client = returned[bufnr] and M.of(bufnr)
  local tick = api.nvim_buf_get_changedtick(bufnr)
  if not client or vim.lsp.util.buf_versions[bufnr] == tick then
    return
  end
  local line_end = LINE_ENDS[vim.bo[bufnr].fileformat]
  local text = table.concat(api.nvim_buf_get_lines(bufnr, 0, -1, true), line_end)
  if vim.bo[bufnr].endofline then
    text = text .. line_end
  end
  compat.notify(client, 'textDocument/didChange', {
    textDocument = { uri = vim.uri_from_bufnr(bufnr), version = tick },
    contentChanges = { { text = text } },
  })
end

--- Stop the server and start it anew.
function M.restart()
  ends = {}
  for _, client in ipairs(compat.clients(M.NAME)) do
    stopping[client.id] = true
    compat.stop(client)
  end
  local tries = 0
  local function again()
    tries = tries + 1
    if #compat.clients(M.NAME) == 0 or tries > 50 then
      return M.attach_all()
    end
    vim.defer_fn(again, 100)
  end
  again()
end

---@param client_id integer
---@param method string
---@param params table
function M.notify(client_id, method, params)
  local client = vim.lsp.get_client_by_id(client_id)
  if client then
    compat.notify(client, method, params)
  end
end

--- Run a command of the server.
---@param client_id integer
---@param command string
---@param arguments table|nil
---@param done fun(err: table|nil, result: any)|nil
function M.execute(client_id, command, arguments, done)
  local client = vim.lsp.get_client_by_id(client_id)
  if not client then
    return
  end
  local params = { command = command, arguments = arguments or {} }
  compat.request(client, 'workspace/executeCommand', params, function(err, result)
    if done then
      done(err, result)
    end
  end)
end

--- Tell the server the settings that hold now.
function M.push_settings()
  for _, client in ipairs(compat.clients(M.NAME)) do
    local now = settings((client.config.settings or {}).midspan or {})
    client.config.settings = now
    client.settings = now
    compat.notify(client, 'workspace/didChangeConfiguration', { settings = now })
  end
end

return M
