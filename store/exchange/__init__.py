"""Exchange: features, patches and scale of other tools into a store, and out of it again; one file a tool."""
