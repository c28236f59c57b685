"""The verbs of `beam_jobs`: one module each, imported when the verb is used."""
