// React 18 comes as a script that sets a global; with a bundler this file and the import map are not needed.
export const { createElement, useMemo, useSyncExternalStore } = window.React;
