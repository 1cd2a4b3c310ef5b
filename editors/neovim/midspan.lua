-- midspan in Neovim without a plugin: put this file in ~/.config/nvim/plugin/, or require it.
-- Neovim 0.12 shows ghost text; 0.11 shows the suggestion in the completion menu.
--
--   <Tab>                 accept the ghost text (a plain Tab where there is none)
--   :MidspanModel [name]  switch the model, for every window; without a name: list them
--   :MidspanToggle        suggestions off and on
--   :MidspanStatus        what it is doing, and why there is no suggestion
--   code actions (gra)    "Fill in here", "Complete this function body"

local has_ghost_text = vim.lsp.inline_completion ~= nil
local status = { kind = 'Inactive', message = '', model = '', reason = '' }

vim.lsp.config('midspan', {
  cmd = { 'midspan', 'lsp' },
  root_markers = { '.git' },
  settings = { midspan = {} }, -- for example { maxTokens = 64, disabledLanguages = { 'markdown' } }
  handlers = {
    ['midspan/status'] = function(_, result)
      status = result
      vim.cmd.redrawstatus()
    end,
  },
})
vim.lsp.enable('midspan')

vim.api.nvim_create_autocmd('LspAttach', {
  callback = function(args)
    local client = vim.lsp.get_client_by_id(args.data.client_id)
    if not client or client.name ~= 'midspan' then
      return
    end
    if has_ghost_text then
      vim.lsp.inline_completion.enable(true, { client_id = client.id })
    else
      vim.lsp.completion.enable(true, client.id, args.buf, { autotrigger = true })
    end
  end,
})

if has_ghost_text then
  vim.keymap.set('i', '<Tab>', function()
    if not vim.lsp.inline_completion.get() then
      return '<Tab>'
    end
  end, { expr = true, desc = 'midspan: accept the suggestion' })
end

-- Run a command of the server and hand its result to `done`.
local function run(command, arguments, done)
  local client = vim.lsp.get_clients({ name = 'midspan' })[1]
  if not client then
    return vim.notify('midspan is not running in this buffer', vim.log.levels.WARN)
  end
  local params = { command = command, arguments = arguments }
  client:request('workspace/executeCommand', params, function(err, result)
    if err then
      return vim.notify('midspan: ' .. err.message, vim.log.levels.ERROR)
    end
    done(result)
  end)
end

vim.api.nvim_create_user_command('MidspanModel', function(args)
  if args.args ~= '' then
    return run('midspan.selectModel', { args.args }, function(result)
      vim.notify('midspan: ' .. result.name)
    end)
  end
  run('midspan.listModels', {}, function(result)
    vim.ui.select(result.models, {
      prompt = 'Model',
      format_item = function(model)
        return model.name .. (model.name == result.current and ' (in use)' or '')
      end,
    }, function(model)
      if model then
        vim.cmd.MidspanModel(model.name)
      end
    end)
  end)
end, { nargs = '?', desc = 'midspan: switch the model' })

vim.api.nvim_create_user_command('MidspanToggle', function()
  run('midspan.toggle', {}, function(result)
    vim.notify('midspan: ' .. (result.enabled and 'on' or 'off'))
  end)
end, { desc = 'midspan: suggestions off and on' })

vim.api.nvim_create_user_command('MidspanStatus', function()
  local why = status.reason ~= '' and status.reason or status.message
  vim.notify(('midspan: %s %s %s'):format(status.kind, status.model, why))
end, { desc = 'midspan: what it is doing' })

-- For a status line: %{v:lua.MidspanStatusLine()}
function _G.MidspanStatusLine()
  return status.kind == 'Normal' and status.model or ('midspan: ' .. status.kind)
end
