"""Makes the contract's failed assertions show their values."""

import pytest

pytest.register_assert_rewrite("backends.engines.contract")
