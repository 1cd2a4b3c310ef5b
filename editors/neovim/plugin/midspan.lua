-- Loaded at start-up: commands, <Plug> maps, events. The modules are loaded when they are needed.
if vim.g.loaded_midspan then
  return
end
vim.g.loaded_midspan = true

if vim.fn.has('nvim-0.7.2') == 0 then
  vim.notify('midspan needs Neovim 0.7.2 or later', vim.log.levels.ERROR)
  return
end

local api = vim.api

-- As NonText looks; where a colour scheme gives that no colour for terminals of 256: grey.
local function highlight()
  local has_colour = vim.fn.synIDattr(vim.fn.hlID('NonText'), 'fg', 'cterm') ~= ''
  if vim.o.termguicolors or has_colour then
    vim.cmd('highlight default link MidspanGhost NonText')
  else
    vim.cmd('highlight default MidspanGhost ctermfg=8 guifg=#808080')
  end
end
highlight()

api.nvim_create_user_command('Midspan', function(command)
  require('midspan.commands').run(command)
end, {
  nargs = '*',
  range = true,
  desc = 'midspan: models, status, switches, edits, kernels',
  complete = function(typed, line)
    return require('midspan.commands').complete(typed, line)
  end,
})

local ACTIONS = {
  ['accept'] = 'accept',
  ['accept-word'] = 'accept_word',
  ['accept-line'] = 'accept_line',
  ['next'] = 'next',
  ['previous'] = 'previous',
  ['dismiss'] = 'dismiss',
  ['suggest'] = 'suggest',
}
for name, action in pairs(ACTIONS) do
  local command = ("<Cmd>lua require('midspan').%s()<CR>"):format(action)
  vim.keymap.set('i', ('<Plug>(midspan-%s)'):format(name), command, { silent = true })
end

local group = api.nvim_create_augroup('midspan', {})

api.nvim_create_autocmd('ColorScheme', { group = group, callback = highlight })

api.nvim_create_autocmd({ 'InsertEnter', 'CursorMovedI', 'TextChangedI', 'TextChangedP', 'CompleteDone' }, {
  group = group,
  callback = function(event)
    if event.event == 'CompleteDone' or event.event == 'InsertEnter' then
      -- The menu is still open, or insert mode has not begun.
      return vim.schedule(require('midspan.ghost').changed)
    end
    require('midspan.ghost').changed()
  end,
})

api.nvim_create_autocmd({ 'TextChanged', 'TextChangedI', 'TextChangedP' }, {
  group = group,
  callback = function(event)
    require('midspan.client').follow(event.buf)
  end,
})

api.nvim_create_autocmd({ 'InsertLeave', 'BufLeave' }, {
  group = group,
  callback = function()
    require('midspan.ghost').dismiss()
  end,
})

if vim.fn.has('nvim-0.8') == 1 then
  api.nvim_create_autocmd('LspAttach', {
    group = group,
    callback = function(event)
      local client = vim.lsp.get_client_by_id(event.data.client_id)
      if client and client.name == 'midspan' then
        require('midspan.client').attached(client, event.buf)
      end
    end,
  })
end

api.nvim_create_autocmd({ 'BufUnload' }, {
  group = group,
  callback = function(event)
    require('midspan.client').detached(event.buf)
  end,
})

-- Later, so that setup() and options set after this file count.
vim.schedule(function()
  if not require('midspan.config').get().autostart then
    return
  end
  local client = require('midspan.client')
  if vim.lsp.enable then
    vim.lsp.enable('midspan')
  else
    api.nvim_create_autocmd('FileType', {
      group = group,
      callback = function(event)
        client.attach(event.buf)
      end,
    })
  end
  for _, bufnr in ipairs(api.nvim_list_bufs()) do
    client.attach(bufnr)
  end
end)
