--- `:Midspan kernel`: a kernel for the PyTorch function at the cursor; a preview of its files first.
--- Rule: files are written only when they are applied, and none is overwritten.
local client = require('midspan.client')
local preview = require('midspan.preview')
local say = require('midspan.say')
local work = require('midspan.work')

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

---@param answer table
---@return boolean
local function apply(answer)
  for _, file in ipairs(answer.files) do
    local path = vim.uri_to_fname(file.uri)
    if vim.fn.getftype(path) ~= '' then
      say.error(('%s is there by now; `:Midspan discard`, and ask for it again'):format(path))
      return false
    end
  end
  if not write(answer.files) then
    return false
  end
  vim.schedule(function()
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
  if #answer.files == 0 and answer.success then
    local told = '%s.py is there already, with the same kernel: %s'
    return say.info(told:format(answer.name, answer.statement))
  elseif #answer.files == 0 then
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
---@param wanted table the function and the language, as the server's commands take them
---@param shapes string as people write them; empty: the server guesses
local function generate(found, wanted, shapes)
  if shapes ~= '' then
    wanted.shapes = shapes
  end
  local title = ('Generating a %s kernel'):format(wanted.language)
  work.run(found, title, 'midspan.kernel.generate', wanted, function(err, answer)
    if err then
      return say.error(err)
    end
    finished(answer)
  end)
end

--- Ask what the shapes are where the server could but guess them.
---@param found table
---@param wanted table
local function ask_shapes(found, wanted)
  client.execute(found.id, 'midspan.kernel.shapes', { wanted }, function(err, answer)
    if err then
      return say.error(err.message)
    elseif not answer.guessed then
      return generate(found, wanted, '')
    end
    vim.ui.input({ prompt = 'Shapes: ', default = answer.shapes }, function(shapes)
      if shapes then
        generate(found, wanted, vim.trim(shapes))
      end
    end)
  end)
end

--- Ask for what was not said, and generate.
---@param found table the client that serves the buffer
---@param bufnr integer
---@param line integer from 1
---@param language string|nil
---@param shapes string as people write them; empty: the server guesses
function M.ask(found, bufnr, line, language, shapes)
  local wanted = { uri = vim.uri_from_bufnr(bufnr), line = line - 1, language = language }
  if not language then
    return vim.ui.select(M.LANGUAGES, { prompt = 'Kernel in' }, function(picked)
      if picked then
        wanted.language = picked
        ask_shapes(found, wanted)
      end
    end)
  elseif not vim.tbl_contains(M.LANGUAGES, language) then
    local known = table.concat(M.LANGUAGES, ', ')
    return say.error(('`kernel` takes %s, not %s'):format(known, language))
  elseif shapes == '' then
    return ask_shapes(found, wanted)
  end
  generate(found, wanted, shapes)
end

return M
