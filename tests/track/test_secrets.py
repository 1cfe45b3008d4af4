from luss_ray.track.secrets import harmless


def test_passwords_in_addresses_and_secret_variables_are_taken_out(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "open sesame")
    text = "POST https://me:p@ss:word@host/api failed:\n key 0123456789abcdef, open sesame"
    assert harmless(text) == "POST https://host/api failed: key ***, ***"


def test_what_is_no_secret_stays(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "")
    assert harmless("no answer from http://host:5000/me@home") == "no answer from http://host:5000/me@home"
    assert len(harmless("x" * 5000)) == 500
