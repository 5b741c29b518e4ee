import js from "@eslint/js";
import { defineConfig } from "eslint/config";
import tseslint from "typescript-eslint";

export default defineConfig([
  { ignores: ["node_modules", "lib", "lib-test", "labextension", "**/*.js", "**/*.d.ts"] },
  js.configs.recommended,
  tseslint.configs.recommended,
  {
    files: ["**/*.ts"],
    rules: {
      "@typescript-eslint/explicit-module-boundary-types": "error",
      "@typescript-eslint/naming-convention": [
        "error",
        { selector: "interface", format: ["PascalCase"], custom: { regex: "^I[A-Z]", match: true } }
      ],
      curly: ["error", "all"],
      eqeqeq: "error",
      "max-lines": ["error", { max: 400 }],
      "prefer-arrow-callback": "error"
    }
  }
]);
