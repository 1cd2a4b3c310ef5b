"""What runs inside the sandbox. Rule: only the sandbox starts these; nothing else imports them."""
