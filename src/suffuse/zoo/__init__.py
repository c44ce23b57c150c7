"""Small trained models that come with the library, and the recipes that rebuild them."""
