--- `:Midspan pull`: a model is chosen, downloaded by the server, and used if that is wanted.
--- Rule: shows what the server says of sizes and licences; computes nothing.
local say = require('midspan.say')
local work = require('midspan.work')

local M = {}

local MIB = 1024 * 1024

---@param bytes integer|nil
---@return string|nil
local function size(bytes)
  if type(bytes) ~= 'number' then
    return nil
  elseif bytes >= 1024 * MIB then
    return ('%.1f GiB'):format(bytes / (1024 * MIB))
  end
  return ('%d MiB'):format(bytes / MIB)
end

local FITS = { tight = 'tight here', no = 'too large here' }

---@param value any
---@return string|nil
local function word(value)
  return type(value) == 'string' and value ~= '' and value or nil
end

--- One line of the list.
---@param model table a row of the catalogue
---@param recommended string|nil
---@return string
function M.line(model, recommended)
  local notes = {}
  for _, note in ipairs({
    model.name == recommended and 'recommended' or '',
    size(model.size_bytes) or '',
    word(model.licence) or '',
    model.downloaded == true and 'downloaded' or FITS[model.fits] or '',
  }) do
    if note ~= '' then
      notes[#notes + 1] = note
    end
  end
  return ('%s (%s)'):format(model.name, table.concat(notes, ', '))
end

--- What the user named: a model of the catalogue, or a repository `owner/name[:QUANTISATION]`.
---@param name string
---@return table
function M.wanted(name)
  if not name:find('/', 1, true) then
    return { model = name }
  end
  local repository, quantisation = name:match('^(.-):([^:]+)$')
  return { repository = repository or name, quantisation = quantisation }
end

---@param found table the client
---@param name string
---@param use fun(name: string)
function M.run(found, name, use)
  work.run(found, 'Downloading ' .. name, 'midspan.downloadModel', M.wanted(name), function(err, model)
    if err then
      return say.error(('%s was not downloaded: %s'):format(name, err))
    end
    local got = word(type(model) == 'table' and model.name) or name
    say.info(got .. ' is here')
    vim.ui.select({ 'Yes', 'No' }, { prompt = ('Use %s now?'):format(got) }, function(answer)
      if answer == 'Yes' then
        use(got)
      end
    end)
  end)
end

--- Let the user choose from the catalogue.
---@param catalogue table
---@param choose fun(name: string)
function M.pick(catalogue, choose)
  vim.ui.select(catalogue.models, {
    prompt = 'Download a model',
    format_item = function(model)
      return M.line(model, catalogue.recommended)
    end,
  }, function(model)
    if model then
      choose(model.name)
    end
  end)
end

return M
