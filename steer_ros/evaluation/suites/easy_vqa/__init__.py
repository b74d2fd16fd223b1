"""The `vqa` suite: questions of the public easy-VQA set about mosaics of its images."""
