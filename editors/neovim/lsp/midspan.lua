-- For `vim.lsp.enable('midspan')`, Neovim 0.11 and later; `vim.lsp.config('midspan', {…})` overrides.
local client = require('midspan.client')
local policy = require('midspan.policy')

local config = client.config()

--- Attach only where suggestions are wanted.
config.root_dir = function(bufnr, on_dir)
  if policy.attachable(bufnr) and not client.obstacle() then
    on_dir(nil)
  end
end

return config
