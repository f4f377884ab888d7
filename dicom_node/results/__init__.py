"""Result objects of a reading: SEG, SR, key images and reading.json."""
