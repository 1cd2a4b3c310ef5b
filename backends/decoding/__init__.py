"""What all local engines share: prefix reuse, scheduling, sampling, healing, stop rules."""
