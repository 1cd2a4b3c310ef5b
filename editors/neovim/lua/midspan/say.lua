--- Messages to the user. Rule: one way to say something, with the plugin's name before it.
local M = {}

---@param message string
function M.info(message)
  vim.notify('midspan: ' .. message, vim.log.levels.INFO)
end

---@param message string
function M.error(message)
  vim.notify('midspan: ' .. message, vim.log.levels.ERROR)
end

return M
