"""The stages between training stages: each resumable shard by shard, each a function of a run."""
