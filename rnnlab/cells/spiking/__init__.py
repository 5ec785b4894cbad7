"""Spiking cells."""
