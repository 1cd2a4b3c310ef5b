--- `:checkhealth midspan`. Rule: looks and reports; starts nothing but `midspan --version`.
local client = require('midspan.client')
local compat = require('midspan.compat')
local config = require('midspan.config')
local policy = require('midspan.policy')
local status = require('midspan.status')

local M = {}

local KNOWN_KINDS = { Normal = 'ok', Inactive = 'info', Warning = 'warn', Error = 'error' }

local function check_neovim(report)
  report.start('midspan: Neovim')
  local version = vim.version()
  local name = ('Neovim %d.%d.%d'):format(version.major, version.minor, version.patch)
  if not compat.has('0.7.2') then
    return report.error(name .. ' is too old', { 'midspan needs Neovim 0.7.2 or later.' })
  end
  if policy.native() then
    report.ok(name .. ': Neovim draws the ghost text')
  elseif config.get().ghost_text == 'native' then
    report.warn(name .. ' cannot draw ghost text; the plugin does', { 'Neovim 0.12 can.' })
  elseif config.get().ghost_text == 'off' then
    report.info(name .. ': ghost text is switched off (option `ghost_text`)')
  else
    report.ok(name .. ': the plugin draws the ghost text')
  end
end

local function check_options(report)
  report.start('midspan: options')
  config.get()
  for _, problem in ipairs(config.problems) do
    report.error(problem, { 'See :help midspan-options.' })
  end
  if #config.problems == 0 then
    report.ok('the options are right')
  end
  if not policy.enabled() then
    report.warn('suggestions are switched off', { ':Midspan toggle switches them on.' })
  end
end

local function check_command(report)
  report.start('midspan: language server')
  local obstacle = client.obstacle()
  if obstacle then
    return report.error(obstacle, { 'See :help midspan-install.' })
  end
  local command = config.get().cmd[1]
  report.ok(('`%s` is %s'):format(command, vim.fn.exepath(command)))
  if #config.get().cmd == 2 and config.get().cmd[2] == 'lsp' then
    local version = vim.fn.system({ command, '--version' })
    if vim.v.shell_error == 0 then
      report.ok(vim.trim(version))
    else
      report.error('it does not run: ' .. vim.trim(version), { 'Run `midspan doctor`.' })
    end
  end
end

local function check_running(report)
  report.start('midspan: running server')
  local running = compat.clients(client.NAME)
  if #running == 0 then
    return report.info('none; it starts with the first file (:help midspan-start)')
  end
  for _, found in ipairs(running) do
    report.ok(('client %d, positions in %s'):format(found.id, found.offset_encoding))
  end
  local now = status.current
  local say = report[KNOWN_KINDS[now.kind] or 'info']
  say(('%s, model %s'):format(now.kind, now.model ~= '' and now.model or 'none yet'))
  if now.message ~= '' then
    say(now.message)
  end
  if now.reason ~= '' then
    report.info('last reason for no suggestion: ' .. now.reason)
  end
  report.info('`midspan doctor` in a shell checks the installation and the models')
end

local function check_keys(report)
  report.start('midspan: keys')
  local mapped = {}
  for action, plug in pairs(config.KEYS) do
    for _, map in ipairs(vim.api.nvim_get_keymap('i')) do
      local is_ours = map.rhs == plug or (map.desc or ''):find('midspan: ' .. action:gsub('_', ' '), 1, true)
      if is_ours and not vim.startswith(map.lhs, '<Plug>') then
        mapped[#mapped + 1] = ('%s: %s'):format(action, map.lhs)
      end
    end
  end
  table.sort(mapped)
  if #mapped == 0 then
    return report.info('no key is mapped to an action by name (:help midspan-keys)')
  end
  report.ok(table.concat(mapped, ', '))
end

function M.check()
  local report = compat.health()
  check_neovim(report)
  check_options(report)
  check_command(report)
  check_running(report)
  check_keys(report)
end

return M
