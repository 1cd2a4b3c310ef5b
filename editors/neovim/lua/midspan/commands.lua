--- `:Midspan SUBCOMMAND`. Rule: a table names them all; each says what came of it in one message.
local client = require('midspan.client')
local compat = require('midspan.compat')

local api = vim.api
local M = {}

local COMPLETION_WAIT_MS = 1000

---@param message string
---@param level integer|nil
local function say(message, level)
  vim.notify('midspan: ' .. message, level or vim.log.levels.INFO)
end

local function fail(message)
  say(message, vim.log.levels.ERROR)
end

--- The client, or a message why there is none.
---@return table|nil
local function serving()
  local found = client.any()
  if not found then
    fail(client.obstacle() or 'no language server is running; open a file, or `:Midspan restart`')
  end
  return found
end

--- Run a command of the server and hand its result on; failures are told.
---@param command string
---@param arguments table
---@param done fun(result: any)
local function run(command, arguments, done)
  local found = serving()
  if found then
    client.execute(found.id, command, arguments, function(err, result)
      if err then
        return fail(err.message)
      end
      done(result)
    end)
  end
end

---@param name string
local function use(name)
  run('midspan.selectModel', { name }, function(result)
    say(('%s completes now'):format(result.name))
  end)
end

---@param listed table
---@param model table
---@return string
local function model_line(listed, model)
  local notes = { model.state ~= 'available' and model.state or nil }
  if model.name == listed.current then
    table.insert(notes, 1, 'in use')
  end
  return model.name .. (#notes > 0 and (' (%s)'):format(table.concat(notes, ', ')) or '')
end

local function pick_model()
  run('midspan.listModels', {}, function(listed)
    vim.ui.select(listed.models, {
      prompt = 'Model',
      format_item = function(model)
        return model_line(listed, model)
      end,
    }, function(model)
      if model then
        use(model.name)
      end
    end)
  end)
end

local function show_models()
  run('midspan.listModels', {}, function(listed)
    local lines = {}
    for _, model in ipairs(listed.models) do
      lines[#lines + 1] = '  ' .. model_line(listed, model)
    end
    say(#lines > 0 and 'models\n' .. table.concat(lines, '\n') or 'there are no models')
  end)
end

local function show_status()
  run('midspan.status', {}, function(now)
    local policy = require('midspan.policy')
    local lines = { ('%s, model %s'):format(now.kind, now.model ~= '' and now.model or 'none') }
    for _, sentence in ipairs({ now.message, now.reason ~= now.message and now.reason or '' }) do
      if sentence ~= '' then
        lines[#lines + 1] = sentence
      end
    end
    if not policy.enabled() then
      lines[#lines + 1] = 'suggestions are switched off (:Midspan toggle)'
    elseif not policy.attachable(api.nvim_get_current_buf()) then
      lines[#lines + 1] = 'suggestions are switched off in this buffer'
    end
    lines[#lines + 1] = 'ghost text: ' .. (policy.native() and 'drawn by Neovim' or 'drawn by the plugin')
    say(table.concat(lines, '\n  '))
  end)
end

local SCOPES = {
  all = 'suggestions',
  buffer = 'suggestions in this buffer',
  filetype = 'suggestions in this filetype',
}

---@param scope string|nil
local function toggle(scope)
  scope = scope or 'all'
  if not SCOPES[scope] then
    return fail(('`toggle` takes all, buffer or filetype, not %s'):format(scope))
  end
  local enabled = require('midspan').toggle(scope)
  say(('%s are %s'):format(SCOPES[scope], enabled and 'on' or 'off'))
end

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
---@param pattern string
---@param none string what to say where there is no such action
local function act(pattern, none)
  local found, bufnr = serving(), api.nvim_get_current_buf()
  if not found then
    return
  end
  if not client.of(bufnr) then
    return fail('this buffer is not served; `:Midspan toggle buffer` may switch it on')
  end
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

local function open_log()
  vim.cmd('tabedit ' .. vim.fn.fnameescape(compat.lsp_log()))
  vim.cmd('normal! G')
end

---@return string[]
local function model_names()
  local found = client.any()
  if not found then
    return {}
  end
  local answered, listed = false, nil
  client.execute(found.id, 'midspan.listModels', {}, function(_, result)
    answered, listed = true, result
  end)
  vim.wait(COMPLETION_WAIT_MS, function()
    return answered
  end, 10)
  return vim.tbl_map(function(model)
    return model.name
  end, type(listed) == 'table' and listed.models or {})
end

---@class midspan.Subcommand
---@field run fun(argument: string|nil)
---@field arguments (fun(): string[])|nil

---@type table<string, midspan.Subcommand>
local SUBCOMMANDS = {
  models = { run = show_models },
  use = {
    run = function(name)
      if name then
        use(name)
      else
        pick_model()
      end
    end,
    arguments = model_names,
  },
  status = { run = show_status },
  toggle = {
    run = toggle,
    arguments = function()
      return { 'all', 'buffer', 'filetype' }
    end,
  },
  fill = {
    run = function()
      act('^fill in', 'nothing can be filled in here')
    end,
  },
  ['complete-function'] = {
    run = function()
      act('function body', 'the cursor is in no function whose body could be completed')
    end,
  },
  kernel = {
    run = function()
      act('kernel', 'the server offers no kernel to generate here')
    end,
  },
  log = { run = open_log },
  restart = {
    run = function(what)
      if what == 'model' then
        return run('midspan.restart', {}, function(result)
          say(('%s was loaded afresh'):format(result.name or 'the model'))
        end)
      end
      client.restart()
    end,
    arguments = function()
      return { 'server', 'model' }
    end,
  },
}

--- Entries of a list that begin with what was typed, in order.
---@param all string[]
---@param typed string
---@return string[]
local function beginning_with(all, typed)
  local found = vim.tbl_filter(function(entry)
    return vim.startswith(entry, typed)
  end, all)
  table.sort(found)
  return found
end

---@param typed string
---@param line string
---@return string[]
function M.complete(typed, line)
  local before = vim.split(line:sub(1, #line - #typed), '%s+', { trimempty = true })
  if #before <= 1 then
    return beginning_with(vim.tbl_keys(SUBCOMMANDS), typed)
  end
  local subcommand = SUBCOMMANDS[before[2]]
  if #before == 2 and subcommand and subcommand.arguments then
    return beginning_with(subcommand.arguments(), typed)
  end
  return {}
end

---@param arguments string[]
function M.run(arguments)
  local name = arguments[1] or 'status'
  local subcommand = SUBCOMMANDS[name]
  if not subcommand then
    local known = table.concat(beginning_with(vim.tbl_keys(SUBCOMMANDS), ''), ', ')
    return fail(('there is no `:Midspan %s`; there are %s'):format(name, known))
  end
  subcommand.run(arguments[2])
end

return M
