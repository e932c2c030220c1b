"""Rewards that are vision-language models: images as patches, chats as tokens, and their networks."""
