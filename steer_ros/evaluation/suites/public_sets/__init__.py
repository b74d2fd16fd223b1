"""The `vqa` suite on a user's copy of a public set: VQAv2, GQA, POPE."""
