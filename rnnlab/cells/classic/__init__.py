"""Classic cells: the vanilla network, the LSTM, the GRU and variants of them."""
