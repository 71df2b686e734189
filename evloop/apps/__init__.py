"""Programs made of evloop: each imports only the public names of ``evloop``, as a user's program would."""
