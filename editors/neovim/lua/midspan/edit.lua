--- `:Midspan edit`: lines are written anew, as the user says; a preview first.
--- Rule: the document changes only when the edit is applied, and only if it is still the same.
local preview = require('midspan.preview')
local say = require('midspan.say')
local text = require('midspan.text')
local work = require('midspan.work')

local api = vim.api
local M = {}

--- A document's lines with those of a range written anew.
---@param lines string[]
---@param range table of whole lines, as LSP has it
---@param written string
---@return string[]
function M.spliced(lines, range, written)
  local made = vim.list_slice(lines, 1, range.start.line)
  local middle = text.lines((text.normalised(written):gsub('\n$', '')))
  vim.list_extend(made, middle)
  local behind = range['end'].line + (range['end'].character > 0 and 1 or 0)
  return vim.list_extend(made, vim.list_slice(lines, behind + 1))
end

---@param found table the client
---@param bufnr integer
---@param tick integer the document's state for which the edit was made
---@param answer table
---@return boolean
local function apply(found, bufnr, tick, answer)
  if not api.nvim_buf_is_loaded(bufnr) then
    say.error('the file is no longer open, so the edit was left out')
    return true
  elseif api.nvim_buf_get_changedtick(bufnr) ~= tick then
    say.error('the file changed since the edit was made; `:Midspan discard`, and ask for it again')
    return false
  end
  local edit = { range = answer.range, newText = answer.text }
  vim.lsp.util.apply_text_edits({ edit }, bufnr, found.offset_encoding)
  return true
end

--- Ask the server for the edit, and show it as it is written.
---@param found table the client that serves the buffer
---@param bufnr integer
---@param first integer lines, from 1, both included
---@param last integer
---@param prompt string
function M.run(found, bufnr, first, last, prompt)
  local tick = api.nvim_buf_get_changedtick(bufnr)
  local lines = api.nvim_buf_get_lines(bufnr, 0, -1, true)
  local show, cancel ---@type fun(lines: string[])|nil, fun()
  local function written(so_far)
    show = show or preview.difference(bufnr, prompt, function()
      cancel()
    end)
    show(M.spliced(lines, so_far.range, so_far.text))
  end
  local function done(err, answer)
    if err then
      preview.discard()
      return say.error(err)
    end
    written(answer)
    preview.ready(function()
      return apply(found, bufnr, tick, answer)
    end)
    local note = answer.truncated and ('incomplete, because %s may write no more'):format(answer.model)
      or ('written by %s'):format(answer.model)
    say.info(('%s; `:Midspan apply` takes it over, `:Midspan discard` does not'):format(note))
  end
  local title = 'Editing ' .. vim.fn.fnamemodify(api.nvim_buf_get_name(bufnr), ':t')
  cancel = work.run(found, title, 'midspan.edit', {
    uri = vim.uri_from_bufnr(bufnr),
    range = {
      start = { line = first - 1, character = 0 },
      ['end'] = { line = last, character = 0 },
    },
    prompt = prompt,
  }, done, written)
end

--- Ask what should be done where nothing was said, and do it.
---@param found table
---@param bufnr integer
---@param first integer
---@param last integer
---@param prompt string
function M.ask(found, bufnr, first, last, prompt)
  if prompt ~= '' then
    return M.run(found, bufnr, first, last, prompt)
  end
  local what = first == last and 'What should become of this line? ' or 'What should become of these lines? '
  vim.ui.input({ prompt = what }, function(answer)
    if answer and vim.trim(answer) ~= '' then
      M.run(found, bufnr, first, last, vim.trim(answer))
    end
  end)
end

return M
