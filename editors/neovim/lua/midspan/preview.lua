--- What would become of files, in a tab of its own, until it is applied or discarded.
--- Rule: one at a time; changes nothing by itself; closing it discards. Must not know who asks.
local text = require('midspan.text')

local api = vim.api
local M = {}

---@class midspan.Preview
---@field tab integer
---@field buffers integer[] scratch buffers, gone with the tab
---@field discarded fun() called when it ends and was not applied
---@field apply (fun(): boolean)|nil nil while it is still being written; false: it stays

---@type midspan.Preview|nil
local current
local number = 0 -- in names of buffers, which Neovim wants to be different

---@param name string
---@param syntax string colours, and no 'filetype': language servers are for files
---@return integer bufnr
local function scratch(name, syntax)
  local bufnr = api.nvim_create_buf(false, true)
  api.nvim_buf_set_name(bufnr, ('midspan://%d/%s'):format(number, name))
  vim.bo[bufnr].bufhidden = 'wipe'
  vim.bo[bufnr].syntax = syntax
  return bufnr
end

---@param bufnr integer
---@param lines string[]
local function fill(bufnr, lines)
  vim.bo[bufnr].modifiable = true
  api.nvim_buf_set_lines(bufnr, 0, -1, false, lines)
  vim.bo[bufnr].modifiable = false
end

---@param applied boolean
---@return boolean whether there was a preview
local function finish(applied)
  local gone = current
  current = nil
  if not gone then
    return false
  end
  if api.nvim_tabpage_is_valid(gone.tab) and #api.nvim_list_tabpages() > 1 then
    vim.cmd(('%dtabclose'):format(api.nvim_tabpage_get_number(gone.tab)))
  end
  for _, bufnr in ipairs(gone.buffers) do
    if api.nvim_buf_is_valid(bufnr) then
      api.nvim_buf_delete(bufnr, { force = true })
    end
  end
  if not applied then
    gone.discarded()
  end
  return true
end

---@param buffers integer[]
---@param discarded fun()
local function open(buffers, discarded)
  local opened = { tab = api.nvim_get_current_tabpage(), buffers = buffers, discarded = discarded }
  current = opened
  for _, bufnr in ipairs(buffers) do
    api.nvim_create_autocmd('BufWipeout', {
      buffer = bufnr,
      once = true,
      callback = function()
        vim.schedule(function()
          if current == opened then
            finish(false)
          end
        end)
      end,
    })
  end
end

--- Show a buffer in the current window, named in its status line.
---@param bufnr integer
---@param title string
local function into_window(bufnr, title)
  api.nvim_win_set_buf(0, bufnr)
  vim.wo.statusline = ' :Midspan apply · :Midspan discard · ' .. title:gsub('%%', '%%%%') .. '%<'
end

--- Show a document beside what would become of it.
---@param bufnr integer the document
---@param title string
---@param discarded fun()
---@return fun(lines: string[]) show lines in the place of the document's
function M.difference(bufnr, title, discarded)
  M.discard()
  number = number + 1
  local view = api.nvim_get_current_buf() == bufnr and vim.fn.winsaveview() or { lnum = 1 }
  local name = vim.fn.fnamemodify(api.nvim_buf_get_name(bufnr), ':t')
  local made = scratch(name, vim.bo[bufnr].filetype)
  fill(made, api.nvim_buf_get_lines(bufnr, 0, -1, true))
  vim.cmd('stopinsert')
  vim.cmd('tab split')
  api.nvim_win_set_buf(0, bufnr)
  vim.fn.winrestview(view)
  vim.cmd('diffthis')
  vim.cmd('rightbelow vsplit')
  into_window(made, title)
  vim.fn.winrestview(view)
  vim.cmd('diffthis')
  open({ made }, discarded)
  return function(lines)
    if api.nvim_buf_is_valid(made) then
      fill(made, lines)
      vim.cmd('diffupdate')
    end
  end
end

--- Show new files side by side.
---@param files {name: string, text: string, syntax: string}[]
---@param title string
---@param discarded fun()
function M.files(files, title, discarded)
  M.discard()
  number = number + 1
  local buffers = {}
  vim.cmd('stopinsert')
  vim.cmd('tab split')
  for index, file in ipairs(files) do
    buffers[index] = scratch(file.name, file.syntax)
    fill(buffers[index], text.lines((file.text:gsub('\n$', ''))))
    if index > 1 then
      vim.cmd('rightbelow vsplit')
    end
    into_window(buffers[index], title)
  end
  vim.cmd('wincmd t')
  open(buffers, discarded)
end

--- It is complete: `M.apply` calls this from now on.
---@param apply fun(): boolean
function M.ready(apply)
  if current then
    current.apply = apply
  end
end

--- 'none', 'unfinished' or 'ready'.
---@return string
function M.state()
  return not current and 'none' or current.apply and 'ready' or 'unfinished'
end

--- Take the preview over; it stays open where that is not possible.
function M.apply()
  if current and current.apply and current.apply() then
    finish(true)
  end
end

--- Leave everything as it was.
---@return boolean whether there was a preview
function M.discard()
  return finish(false)
end

return M
