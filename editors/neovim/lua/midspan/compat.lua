--- What differs between Neovim 0.7 and 0.12, in one place.
--- Rule: no module but this one asks for Neovim's version to choose a call; must not know midspan.
local M = {}

M.uv = vim.uv or vim.loop

---@param version string for example '0.11'
---@return boolean
function M.has(version)
  return vim.fn.has('nvim-' .. version) == 1
end

-- Clients have methods from 0.11 on; before, they have plain functions.
local METHODS = M.has('0.11')

---@param client table
---@param method string
---@param params table
---@param handler fun(err: table|nil, result: any, ctx: table)
---@param bufnr integer|nil
---@return boolean sent
---@return integer|nil request_id
function M.request(client, method, params, handler, bufnr)
  if METHODS then
    return client:request(method, params, handler, bufnr)
  end
  return client.request(method, params, handler, bufnr or 0)
end

---@param client table
---@param method string
---@param params table
function M.notify(client, method, params)
  if METHODS then
    client:notify(method, params)
  else
    client.notify(method, params)
  end
end

---@param client table
---@param request_id integer
function M.cancel(client, request_id)
  if METHODS then
    client:cancel_request(request_id)
  else
    client.cancel_request(request_id)
  end
end

---@param client table
function M.stop(client)
  if METHODS then
    client:stop()
  else
    client.stop()
  end
end

---@param client table
---@return boolean
function M.is_stopped(client)
  if METHODS then
    return client:is_stopped()
  end
  return client.is_stopped()
end

--- Clients with a name, started or (from 0.11) still starting, in a buffer or in all.
---@param name string
---@param bufnr integer|nil
---@return table[]
function M.clients(name, bufnr)
  if vim.lsp.get_clients then
    return vim.lsp.get_clients({ name = name, bufnr = bufnr })
  end
  local found = {}
  local all = bufnr and vim.lsp.buf_get_clients(bufnr) or vim.lsp.get_active_clients()
  for _, client in pairs(all) do
    if client.name == name then
      found[#found + 1] = client
    end
  end
  return found
end

--- The byte offset of a position's character in a line; the line's end if it lies behind that.
---@param line string
---@param character integer in units of `encoding`
---@param encoding 'utf-8'|'utf-16'|'utf-32'
---@return integer
function M.byte_index(line, character, encoding)
  if encoding == 'utf-8' then
    return math.min(character, #line)
  end
  if METHODS then
    return vim.str_byteindex(line, encoding, character, false)
  end
  local ok, index = pcall(vim.str_byteindex, line, character, encoding == 'utf-16')
  return ok and index or #line
end

---@param pattern string
---@param data table|nil handed to the callback, from Neovim 0.8 on
function M.user_event(pattern, data)
  local opts = { pattern = pattern, modeline = false }
  if M.has('0.8') then
    opts.data = data
  end
  vim.api.nvim_exec_autocmds('User', opts)
end

---@return string
function M.lsp_log()
  if vim.lsp.log and vim.lsp.log.get_filename then
    return vim.lsp.log.get_filename()
  end
  return vim.lsp.get_log_path()
end

--- The report functions of `:checkhealth`: start, ok, warn, error, info.
---@return table<string, fun(message: string, advice: string[]|nil)>
function M.health()
  local health = vim.health or require('health')
  local report = {}
  for _, name in ipairs({ 'start', 'ok', 'warn', 'error', 'info' }) do
    report[name] = health[name] or health['report_' .. name]
  end
  return report
end

--- Ghost text that moves the rest of the line aside.
M.INLINE_VIRTUAL_TEXT = M.has('0.10')

return M
