"""Quotes and what stands behind them: keys, certificates, collateral, AESM's answers; no I/O."""
