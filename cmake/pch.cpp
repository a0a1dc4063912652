// Owns the shared precompiled header.
