"""Regression and forecasting of signals: chaotic and periodic signals, and measured time series."""
