"""Students of any activation under one teacher."""
