"""Token sources: seeded, resumable, with a held-out sample."""
