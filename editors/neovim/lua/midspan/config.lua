--- The plugin's options: defaults, what the user gave, and what is wrong with that.
--- Rule: always gives a complete table; a wrong option keeps its default and is told once.
local M = {}

---@alias midspan.GhostText 'auto'|'native'|'own'|'off'
---@alias midspan.Part 'all'|'word'|'line'

--- What `setup()` and `vim.g.midspan` take.
---@class midspan.Options
---@field cmd? string[] the language server's command
---@field cmd_env? table<string, string> environment variables for it, beside Neovim's own
---@field autostart? boolean start the server for every file; without, `vim.lsp.enable('midspan')`
---@field filetypes? table<string, boolean> where it suggests; `['*']`: those not named, `['']`: no type
---@field ghost_text? midspan.GhostText who draws: Neovim 0.12 itself, or the plugin
---@field debounce_ms? integer how long typing rests before a suggestion is asked for
---@field hide_with_menu? boolean no ghost text while the completion menu is open
---@field keys? table<midspan.Action, string> keys in insert mode; each falls back to what it did before
---@field server? table settings of the language server, see |midspan-server|

---@alias midspan.Action
---| 'accept'
---| 'accept_word'
---| 'accept_line'
---| 'next'
---| 'previous'
---| 'dismiss'
---| 'suggest'

--- The options in force: all of them.
---@class midspan.Config
---@field cmd string[]
---@field cmd_env table<string, string>
---@field autostart boolean
---@field filetypes table<string, boolean>
---@field ghost_text midspan.GhostText
---@field debounce_ms integer
---@field hide_with_menu boolean
---@field keys table<midspan.Action, string>
---@field server table

---@type midspan.Config
M.defaults = {
  cmd = { 'midspan', 'lsp' },
  cmd_env = {},
  autostart = true,
  filetypes = { ['*'] = true, gitrebase = false, TelescopePrompt = false },
  ghost_text = 'auto',
  debounce_ms = 50,
  hide_with_menu = true,
  keys = {},
  server = {},
}

-- What `keys` may hold, and the <Plug> map of each.
M.KEYS = {
  accept = '<Plug>(midspan-accept)',
  accept_word = '<Plug>(midspan-accept-word)',
  accept_line = '<Plug>(midspan-accept-line)',
  next = '<Plug>(midspan-next)',
  previous = '<Plug>(midspan-previous)',
  dismiss = '<Plug>(midspan-dismiss)',
  suggest = '<Plug>(midspan-suggest)',
}

local function is(wanted)
  return function(value)
    return type(value) == wanted
  end
end

local function is_list_of_strings(value)
  if type(value) ~= 'table' or #value == 0 then
    return false
  end
  for _, entry in ipairs(value) do
    if type(entry) ~= 'string' then
      return false
    end
  end
  return true
end

local function is_map(key_ok, value_type)
  return function(value)
    if type(value) ~= 'table' then
      return false
    end
    for key, entry in pairs(value) do
      if not key_ok(key) or type(entry) ~= value_type then
        return false
      end
    end
    return true
  end
end

-- Each option: whether a value is right, and what it should be.
local RULES = {
  cmd = { is_list_of_strings, "a list of strings, like { 'midspan', 'lsp' }" },
  cmd_env = { is_map(is('string'), 'string'), 'a table of strings by name' },
  autostart = { is('boolean'), 'true or false' },
  filetypes = {
    is_map(is('string'), 'boolean'),
    "a table of true or false by filetype, like { ['*'] = true, markdown = false }",
  },
  ghost_text = {
    function(value)
      return vim.tbl_contains({ 'auto', 'native', 'own', 'off' }, value)
    end,
    "'auto', 'native' (Neovim 0.12), 'own' or 'off'",
  },
  debounce_ms = {
    function(value)
      return type(value) == 'number' and value >= 0 and value <= 5000
    end,
    'a number of milliseconds, 0 to 5000',
  },
  hide_with_menu = { is('boolean'), 'true or false' },
  keys = {
    is_map(function(key)
      return M.KEYS[key] ~= nil
    end, 'string'),
    'a table of keys by action: accept, accept_word, accept_line, next, previous, dismiss, suggest',
  },
  server = { is('table'), 'a table of settings of the language server' },
}

--- Sort what was given into options and problems.
---@param given any
---@return table options only those that are right
---@return string[] problems sentences for the user
function M.checked(given)
  if type(given) ~= 'table' then
    return {}, { ('the options must be a table, not %s'):format(vim.inspect(given)) }
  end
  local options, problems = {}, {}
  for name, value in pairs(given) do
    local rule = RULES[name]
    if not rule then
      local known = vim.tbl_keys(RULES)
      table.sort(known)
      problems[#problems + 1] = ('there is no option `%s`; the options are %s'):format(
        tostring(name),
        table.concat(known, ', ')
      )
    elseif not rule[1](value) then
      problems[#problems + 1] = ('`%s` must be %s; it is %s'):format(
        name,
        rule[2],
        vim.inspect(value):gsub('%s+', ' ')
      )
    else
      options[name] = value
    end
  end
  table.sort(problems)
  return options, problems
end

---@type midspan.Config|nil
local current

--- Take the user's options over; those of `vim.g.midspan` lie under them.
---@param given midspan.Options|nil
---@return midspan.Config
function M.set(given)
  local all, told = {}, {}
  for _, layer in ipairs({ vim.g.midspan or {}, given or {} }) do
    local options, problems = M.checked(layer)
    all = vim.tbl_deep_extend('force', all, options)
    vim.list_extend(told, problems)
  end
  M.problems = told
  if #told > 0 then
    vim.notify('midspan: ' .. table.concat(told, '\nmidspan: '), vim.log.levels.ERROR)
  end
  current = vim.tbl_deep_extend('force', M.defaults, all)
  return current
end

--- The options in force.
---@return midspan.Config
function M.get()
  return current or M.set()
end

--- What was wrong with the options that were given.
---@type string[]
M.problems = {}

--- Whether options allow suggestions in a filetype.
---@param filetype string
---@return boolean
function M.filetype_wanted(filetype)
  local filetypes = M.get().filetypes
  local wanted = filetypes[filetype]
  if wanted == nil then
    wanted = filetype ~= '' and filetypes['*'] ~= false
  end
  return wanted
end

return M
