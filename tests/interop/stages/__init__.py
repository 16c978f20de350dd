"""The stages of `scripts/interop`, one for each family of libraries."""
