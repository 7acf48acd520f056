"""What `mirage doctor` looks at: one module each for programs, disk, clock, store, leftovers, keys and network."""
