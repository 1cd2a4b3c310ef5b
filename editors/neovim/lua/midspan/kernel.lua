--- `:Midspan kernel`: a kernel for the PyTorch function at the cursor; a preview of its files first.
--- Rule: files are written only when they are applied, and none is overwritten without being asked.
local preview = require('midspan.preview')
local say = require('midspan.say')
local work = require('midspan.work')

local api = vim.api
local M = {}

M.LANGUAGES = { 'triton', 'c', 'numba', 'cuda' }

---@param files {uri: string, text: string}[]
---@return boolean
local function write(files)
  for _, file in ipairs(files) do
    local path = vim.uri_to_fname(file.uri)
    local ok, err = pcall(vim.fn.writefile, vim.split(file.text, '\n', { plain = true }), path, 'b')
    if not ok then
      say.error(('%s could not be written: %s'):format(path, err))
      return false
    end
  end
  return true
end

---@param files {uri: string, text: string}[]
---@return string[] names of those that are there already
local function existing(files)
  local names = {}
  for _, file in ipairs(files) do
    local path = vim.uri_to_fname(file.uri)
    if vim.fn.filereadable(path) == 1 then
      names[#names + 1] = vim.fn.fnamemodify(path, ':t')
    end
  end
  return names
end

--- Files with changes in a buffer are not written over.
---@param files {uri: string, text: string}[]
---@return string|nil
local function unsaved(files)
  for _, file in ipairs(files) do
    local bufnr = vim.fn.bufnr(vim.uri_to_fname(file.uri))
    if bufnr > 0 and vim.bo[bufnr].modified then
      return vim.fn.fnamemodify(api.nvim_buf_get_name(bufnr), ':t')
    end
  end
end

---@param answer table
---@return boolean
local function apply(answer)
  local names, changed = existing(answer.files), unsaved(answer.files)
  if changed then
    say.error(('%s has unsaved changes; write or undo them first'):format(changed))
    return false
  end
  if #names > 0 then
    local question = ('Overwrite %s?'):format(table.concat(names, ' and '))
    if vim.fn.confirm(question, '&Yes\n&No', 2) ~= 1 then
      return false
    end
  end
  if not write(answer.files) then
    return false
  end
  vim.schedule(function()
    vim.cmd('checktime')
    vim.cmd('drop ' .. vim.fn.fnameescape(vim.uri_to_fname(answer.files[1].uri)))
    say.info(answer.statement)
  end)
  return true
end

---@param file {uri: string, text: string}
---@return table
local function shown(file)
  local name = vim.fn.fnamemodify(vim.uri_to_fname(file.uri), ':t')
  return { name = name, text = file.text, syntax = 'python' }
end

---@param answer table
local function finished(answer)
  if #(answer.files or {}) == 0 then
    return say.error(answer.message)
  end
  preview.files(vim.tbl_map(shown, answer.files), answer.statement, function() end)
  preview.ready(function()
    return apply(answer)
  end)
  local told = answer.success and answer.statement or answer.message
  say.info(('%s; `:Midspan apply` writes the files, `:Midspan discard` does not'):format(told))
end

---@param found table the client that serves the buffer
---@param bufnr integer
---@param line integer from 1
---@param language string
---@param shapes string as people write them; empty: the server guesses
function M.run(found, bufnr, line, language, shapes)
  local wanted = { uri = vim.uri_from_bufnr(bufnr), line = line - 1, language = language }
  if shapes ~= '' then
    wanted.shapes = shapes
  end
  local title = ('Generating a %s kernel'):format(language)
  work.run(found, title, 'midspan.kernel.generate', wanted, function(err, answer)
    if err then
      return say.error(err)
    end
    finished(answer)
  end)
end

--- Ask for what was not said, and generate.
---@param found table
---@param bufnr integer
---@param line integer
---@param language string|nil
---@param shapes string
function M.ask(found, bufnr, line, language, shapes)
  if language then
    if not vim.tbl_contains(M.LANGUAGES, language) then
      local known = table.concat(M.LANGUAGES, ', ')
      return say.error(('`kernel` takes %s, not %s'):format(known, language))
    end
    return M.run(found, bufnr, line, language, shapes)
  end
  vim.ui.select(M.LANGUAGES, { prompt = 'Kernel in' }, function(picked)
    if not picked then
      return
    end
    vim.ui.input({ prompt = 'Shapes, like `x: (N, 128) float16`; empty: as found: ' }, function(answer)
      if answer then
        M.run(found, bufnr, line, picked, vim.trim(answer))
      end
    end)
  end)
end

return M
