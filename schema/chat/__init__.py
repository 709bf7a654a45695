"""Chat: messages in rooms, and private messages. Its files mirror those of the tasks."""
