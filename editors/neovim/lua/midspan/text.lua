--- Pieces of a suggestion. Rule: pure functions of strings; must not know buffers or the server.
local M = {}

--- Line breaks as a buffer has them: it keeps none of CRLF, and writes what 'fileformat' says.
---@param text string
---@return string
function M.normalised(text)
  return (text:gsub('\r\n', '\n'))
end

---@param text string
---@return string[]
function M.lines(text)
  return vim.split(text, '\n', { plain = true })
end

--- What is left of a suggestion after some of it was typed; nil if something else was typed.
---@param suggestion string
---@param typed string
---@return string|nil
function M.rest(suggestion, typed)
  if suggestion:sub(1, #typed) == typed then
    return suggestion:sub(#typed + 1)
  end
end

-- Space, then one word ('iskeyword') or one run of other characters.
local WORD = [[^\_s*\%(\k\+\|\%(\k\@!\S\)\+\)]]
local LINE = [[^\n\?[^\n]*]]

---@type table<midspan.Part, fun(text: string): string>
M.part = {
  all = function(text)
    return text
  end,
  word = function(text)
    local word = vim.fn.matchstr(text, WORD)
    return word ~= '' and word or text
  end,
  -- To the end of the line; at its end: the next line.
  line = function(text)
    return vim.fn.matchstr(text, LINE)
  end,
}

--- Length in UTF-16 code units, which is how LSP counts where nothing else was agreed.
---@param text string
---@return integer
function M.utf16_length(text)
  local _, characters = text:gsub('[%z\1-\127\194-\244]', '')
  local _, wide = text:gsub('[\240-\244]', '')
  return characters + wide
end

--- Tabs as spaces: virtual text does not know 'tabstop'.
---@param text string
---@param column integer the screen column at which it begins
---@return string
function M.expanded(text, column)
  local expanded = text:gsub('([^\t]*)\t', function(words)
    local before = vim.fn.strdisplaywidth(words, column)
    local width = vim.fn.strdisplaywidth(words .. '\t', column)
    column = column + width
    return words .. (' '):rep(width - before)
  end)
  return expanded
end

return M
