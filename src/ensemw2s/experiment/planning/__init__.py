"""What a run costs, counted before it runs: rows, tokens, FLOPs, memory, storage, hours, and what runs beside what."""
