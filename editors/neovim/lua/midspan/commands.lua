--- `:Midspan SUBCOMMAND`. Rule: a table names them all; each says what came of it in one message.
local client = require('midspan.client')
local compat = require('midspan.compat')

local api = vim.api
local M = {}

local COMPLETION_WAIT_MS = 1000

local say, fail = require('midspan.say').info, require('midspan.say').error

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

---@param name string
local function pull(name)
  local found = serving()
  if found then
    require('midspan.pull').run(found, name, use)
  end
end

local function pick_download()
  run('midspan.downloadable', {}, function(catalogue)
    require('midspan.pull').pick(catalogue, pull)
  end)
end

local DOWNLOAD = { name = 'Download a model …' }

local function pick_model()
  run('midspan.listModels', {}, function(listed)
    vim.ui.select(vim.list_extend(listed.models, { DOWNLOAD }), {
      prompt = 'Model',
      format_item = function(model)
        return model == DOWNLOAD and model.name or model_line(listed, model)
      end,
    }, function(model)
      if model == DOWNLOAD then
        pick_download()
      elseif model then
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
    vim.list_extend(lines, require('midspan.work').lines())
    say(table.concat(lines, '\n  '))
  end)
end

local SCOPES = {
  all = 'suggestions',
  buffer = 'suggestions in this buffer',
  filetype = 'suggestions in this filetype',
}

---@param call midspan.Call
local function toggle(call)
  local scope = call.argument or 'all'
  if not SCOPES[scope] then
    return fail(('`toggle` takes all, buffer or filetype, not %s'):format(scope))
  end
  local enabled = require('midspan').toggle(scope)
  say(('%s are %s'):format(SCOPES[scope], enabled and 'on' or 'off'))
end

--- The client of the current buffer, or a message why it has none.
---@return table|nil client
---@return integer bufnr
local function serving_here()
  local bufnr = api.nvim_get_current_buf()
  local found = serving() and client.of(bufnr)
  if not found and client.any() then
    fail('this buffer is not served; `:Midspan toggle buffer` may switch it on')
  end
  return found, bufnr
end

---@param pattern string
---@param none string what to say where there is no such action
local function act(pattern, none)
  local found, bufnr = serving_here()
  if found then
    require('midspan.code_actions').run(found, bufnr, pattern, none)
  end
end

local function open_log()
  vim.cmd('tabedit ' .. vim.fn.fnameescape(compat.lsp_log()))
  vim.cmd('normal! G')
end

---@param call midspan.Call
local function restart(call)
  if call.argument ~= 'model' then
    return client.restart()
  end
  run('midspan.restart', {}, function(result)
    say(('%s was loaded afresh'):format(result.name or 'the model'))
  end)
end

---@param call midspan.Call
local function edit(call)
  local found, bufnr = serving_here()
  if found then
    require('midspan.edit').ask(found, bufnr, call.first, call.last, call.rest)
  end
end

---@param call midspan.Call
local function kernel(call)
  local found, bufnr = serving_here()
  if found then
    local line, shapes = api.nvim_win_get_cursor(0)[1], call.rest:match('^%S+%s+(.*)$') or ''
    require('midspan.kernel').ask(found, bufnr, line, call.argument, shapes)
  end
end

local function apply_preview()
  local preview = require('midspan.preview')
  local state = preview.state()
  if state == 'none' then
    fail('there is nothing to apply; `:Midspan edit` and `:Midspan kernel` show what could be')
  elseif state == 'unfinished' then
    fail('it is still being written')
  else
    preview.apply()
  end
end

local function discard_preview()
  if require('midspan.preview').discard() then
    say('discarded')
  else
    fail('there is nothing to discard')
  end
end

local function cancel()
  local titles = require('midspan.work').cancel()
  if require('midspan.preview').state() == 'unfinished' then
    require('midspan.preview').discard()
  end
  if #titles == 0 then
    return fail('nothing is under way')
  end
  say('cancelled: ' .. table.concat(titles, ', '))
end

--- Names from an answer of the server, for completion; none where it does not answer soon.
---@param command string
---@return string[]
local function names(command)
  local found = client.any()
  if not found then
    return {}
  end
  local answered, listed = false, nil
  client.execute(found.id, command, {}, function(_, result)
    answered, listed = true, result
  end)
  vim.wait(COMPLETION_WAIT_MS, function()
    return answered
  end, 10)
  return vim.tbl_map(function(model)
    return model.name
  end, type(listed) == 'table' and listed.models or {})
end

---@class midspan.Call
---@field argument string|nil the first word behind the subcommand
---@field rest string all words behind it, as they were typed
---@field first integer lines of the range, from 1; the cursor's where none was given
---@field last integer

---@class midspan.Subcommand
---@field run fun(call: midspan.Call)
---@field arguments (fun(): string[])|nil
---@field takes_range boolean|nil

---@type table<string, midspan.Subcommand>
local SUBCOMMANDS = {
  models = { run = show_models },
  use = {
    run = function(call)
      if call.argument then
        use(call.argument)
      else
        pick_model()
      end
    end,
    arguments = function()
      return names('midspan.listModels')
    end,
  },
  pull = {
    run = function(call)
      if call.argument then
        pull(call.argument)
      else
        pick_download()
      end
    end,
    arguments = function()
      return names('midspan.downloadable')
    end,
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
  edit = { run = edit, takes_range = true },
  kernel = {
    run = kernel,
    arguments = function()
      return require('midspan.kernel').LANGUAGES
    end,
  },
  apply = { run = apply_preview },
  discard = { run = discard_preview },
  cancel = { run = cancel },
  log = { run = open_log },
  restart = {
    run = restart,
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

--- What the command was called with, as `nvim_create_user_command` hands it over.
---@param command table
function M.run(command)
  local name = command.fargs[1] or 'status'
  local subcommand = SUBCOMMANDS[name]
  if not subcommand then
    local known = table.concat(beginning_with(vim.tbl_keys(SUBCOMMANDS), ''), ', ')
    return fail(('there is no `:Midspan %s`; there are %s'):format(name, known))
  elseif command.range > 0 and not subcommand.takes_range then
    return fail(('`:Midspan %s` takes no range'):format(name))
  end
  subcommand.run({
    argument = command.fargs[2],
    rest = vim.trim(vim.trim(command.args):sub(#name + 1)),
    first = command.line1,
    last = command.line2,
  })
end

return M
