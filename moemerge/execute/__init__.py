"""Carries a plan out, tensor by tensor: bytes copied, values computed and merged, in streams of flat memory."""
