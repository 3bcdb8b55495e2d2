"""Orbit Control: containers on tagged machines, checked, and routed to by HAProxy."""

__version__ = "0.1.0"
