"""Tasks that read a text and write another: translation, conversation, question answering."""
