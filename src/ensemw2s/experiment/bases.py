"""The pretrained models that weak experts start from, looked at before any work."""

from __future__ import annotations

from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.experiment.config import ModelsConfig
from ensemw2s.models.checks import check_model_folder
from ensemw2s.models.loading import load_tokenizer, model_folder
from ensemw2s.models.vocabulary import check_same_vocabulary


def check_bases(models: ModelsConfig, trust_remote_code: bool) -> None:
    """Refuse weak models that cannot be loaded or cannot be experts of one ensemble.

    Raises:
        ConfigError: their vocabularies differ.
        ModelError, PrerequisiteError: one of them cannot be used.
    """
    tokenizers = {}
    for name in models.bases:
        check_model_folder(model_folder(name, trust_remote_code=trust_remote_code), trust_remote_code=trust_remote_code)
        tokenizers[name] = load_tokenizer(name, trust_remote_code=trust_remote_code)
    try:
        check_same_vocabulary(tokenizers)
    except ModelError as error:
        raise ConfigError(f"the weak models of one ensemble must share a vocabulary: {error}") from error
