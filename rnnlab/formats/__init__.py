"""Read and write the file formats of media: sound, MIDI, motion capture, drawings, pictures."""
