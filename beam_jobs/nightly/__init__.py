"""The nightly job in parts: order → train → evaluate → judge → publish. `beam_jobs.retrain` runs them."""
