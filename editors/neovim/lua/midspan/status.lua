--- What the server said last about itself, and the word for it in a status line.
--- Rule: holds the notification `midspan/status` as it came; shows, never asks.
local compat = require('midspan.compat')

local M = {}

---@class midspan.Status
---@field kind 'Normal'|'Warning'|'Error'|'Inactive'
---@field busy boolean
---@field message string about the server
---@field model string the model that completes
---@field reason string why there is no suggestion

---@type midspan.Status
local UNKNOWN = { kind = 'Inactive', busy = false, message = '', model = '', reason = '' }

---@type midspan.Status
M.current = UNKNOWN

-- What is under way on the user's order, in words (midspan.work).
M.work = {} ---@type string[]

---@param status midspan.Status
function M.set(status)
  M.current = vim.tbl_extend('force', UNKNOWN, status)
  compat.user_event('MidspanStatus', M.current)
  vim.cmd('redrawstatus')
end

function M.forget()
  M.set(UNKNOWN)
end

--- For a status line: the model, or what keeps it from suggesting; empty where no server is.
---@param attached boolean
---@param enabled boolean
---@return string
function M.line(attached, enabled)
  local now = M.current
  if #M.work > 0 then
    return 'midspan: ' .. M.work[#M.work]
  elseif not attached then
    return ''
  elseif not enabled then
    return 'midspan: off'
  elseif now.busy then
    return 'midspan: ' .. (now.model ~= '' and now.model or 'starting') .. ' …'
  elseif now.kind == 'Normal' then
    return 'midspan: ' .. now.model
  end
  return 'midspan: ' .. now.kind:lower()
end

return M
