"""Pages read as tests see them: blocks of code, commands, and the files they speak of."""
